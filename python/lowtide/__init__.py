"""lowtide shows what holds the memory of a Python process, gives it back, and keeps it low.

On the command line: ``lowtide run app.py``, ``lowtide dump PID``, ``lowtide report``. From inside a program:

>>> import lowtide
>>> lowtide.snapshot("app.tide")        # a recording of this process's heap         # doctest: +SKIP
>>> lowtide.why(obj)                    # named paths from roots to this object      # doctest: +SKIP
>>> lowtide.retained(obj)               # bytes that would go if it went             # doctest: +SKIP
"""

from __future__ import annotations

from lowtide._inside import Snapshot, retained, snapshot, why

__all__ = ["Snapshot", "retained", "snapshot", "why"]
