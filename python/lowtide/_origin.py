"""Whose code a file of this process is."""

from __future__ import annotations

import os
import sysconfig

_LIBRARIES = tuple(
    os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_OWN = os.path.join(os.path.dirname(__file__), "")


def is_library(file: str) -> bool:
    """Whether it is the standard library's, an installed package's or lowtide's. What somebody typed is in no file.

    Of a line that C code of a library tells, the path is no whole one.
    """
    if file.startswith("<"):
        return file.startswith("<frozen ")
    installed = "/site-packages/" in file or "/dist-packages/" in file
    return installed or not os.path.isabs(file) or file.startswith((_OWN, *_LIBRARIES))
