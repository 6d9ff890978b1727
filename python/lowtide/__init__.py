"""lowtide shows what holds the memory of a Python process, gives it back, and keeps it low.

On the command line: ``lowtide run app.py``, ``lowtide dump PID``, ``lowtide report``. From inside a program:

>>> import lowtide
>>> lowtide.snapshot("app.tide")        # a recording of this process's heap         # doctest: +SKIP
>>> lowtide.why(obj)                    # named paths from roots to this object      # doctest: +SKIP
>>> lowtide.retained(obj)               # bytes that would go if it went             # doctest: +SKIP
>>> lowtide.free()                      # what can go back to the system now, goes   # doctest: +SKIP
>>> pages = lowtide.Cache(max_bytes="256MiB")   # a dict that stays below a bound in bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowtide._inside import Snapshot, retained, snapshot, why
from lowtide._ledger import Freed, Layer, free

if TYPE_CHECKING:
    from lowtide._cache import Cache, cache

__all__ = ["Cache", "Freed", "Layer", "Snapshot", "cache", "free", "retained", "snapshot", "why"]


def __getattr__(name: str) -> object:
    # Who only takes snapshots carries no cache; its extension is built for one Python alone.
    if name not in ("Cache", "cache"):
        raise AttributeError(f"module 'lowtide' has no attribute {name!r}")
    from lowtide import _cache

    value: object = getattr(_cache, name)
    globals()[name] = value
    return value
