"""``python -m lowtide``: the executable ``lowtide``."""

from __future__ import annotations

import os
import sys

from lowtide._executable import executable


def main() -> int:
    try:
        path = executable()
        os.execv(path, [path, *sys.argv[1:]])
    except OSError as error:
        print(f"lowtide: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
