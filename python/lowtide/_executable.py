"""The executable ``lowtide``, which belongs to this package."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def executable() -> str:
    """Path of the executable: ``$LOWTIDE_EXE``, else the one installed with this package, else that on PATH.

    Raises FileNotFoundError where there is none.
    """
    package = Path(__file__).parent
    candidates = [
        os.environ.get("LOWTIDE_EXE"),
        Path(sysconfig.get_path("scripts")) / "lowtide",
        Path(sys.prefix) / "bin" / "lowtide",
        package / "../../../../bin/lowtide",  # PREFIX/lib/python3.x/site-packages/lowtide
        package / "../bin/lowtide",  # pip install --target
        shutil.which("lowtide"),
    ]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return os.fspath(candidate)
    raise FileNotFoundError("the executable lowtide is not installed beside this package; install lowtide again")
