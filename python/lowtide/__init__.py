"""lowtide shows what holds the memory of a Python process, gives it back, and keeps it low.

On the command line: ``lowtide run app.py``, ``lowtide dump PID``, ``lowtide report``. From inside a program:

>>> import lowtide
>>> lowtide.snapshot("app.tide")        # a recording of this process's heap         # doctest: +SKIP
>>> lowtide.why(obj)                    # named paths from roots to this object      # doctest: +SKIP
>>> lowtide.retained(obj)               # bytes that would go if it went             # doctest: +SKIP
>>> print(lowtide.rss())                # where every resident byte is               # doctest: +SKIP
>>> lowtide.free()                      # what can go back to the system now, goes   # doctest: +SKIP
>>> pages = lowtide.Cache(max_bytes="256MiB")   # a dict that stays below a bound in bytes
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true, and it spares the program the import of typing
if TYPE_CHECKING:
    from lowtide._cache import Cache, cache
    from lowtide._gpu import Gpu, GpuCache, GpuMemory, gpu
    from lowtide._inside import Snapshot, retained, snapshot, why
    from lowtide._isolate import isolate
    from lowtide._ledger import Freed, Layer, Ledger, Line, Owner, Pin, free, rss
    from lowtide._limit import Limit, LimitStats, Pressure, limit
    from lowtide._pool import Pool
    from lowtide._pool_errors import IsolatedMemoryError, IsolatedTimeout, RemoteError, WorkerDied
    from lowtide._profile import mark, start, stop
    from lowtide._scope import Scope, Survivors, scope
    from lowtide._stream import Stream, StreamError, Summary, stream

__all__ = [
    "Cache",
    "Freed",
    "Gpu",
    "GpuCache",
    "GpuMemory",
    "IsolatedMemoryError",
    "IsolatedTimeout",
    "Layer",
    "Ledger",
    "Limit",
    "LimitStats",
    "Line",
    "Owner",
    "Pin",
    "Pool",
    "Pressure",
    "RemoteError",
    "Scope",
    "Snapshot",
    "Stream",
    "StreamError",
    "Summary",
    "Survivors",
    "WorkerDied",
    "cache",
    "free",
    "gpu",
    "isolate",
    "limit",
    "mark",
    "retained",
    "rss",
    "scope",
    "snapshot",
    "start",
    "stop",
    "stream",
    "why",
]

# Where each name is. A module is loaded when one of its names is first used: `import lowtide` costs a program nothing but this file.
_MODULES = {
    "_cache": "Cache cache",
    "_gpu": "Gpu GpuCache GpuMemory gpu",
    "_inside": "Snapshot retained snapshot why",
    "_ipython": "load_ipython_extension",
    "_isolate": "isolate",
    "_ledger": "Freed Layer Ledger Line Owner Pin free rss",
    "_limit": "Limit LimitStats Pressure limit",
    "_pool": "Pool",
    "_pool_errors": "IsolatedMemoryError IsolatedTimeout RemoteError WorkerDied",
    "_profile": "mark start stop",
    "_scope": "Scope Survivors scope",
    "_stream": "Stream StreamError Summary stream",
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names.split():
            value: object = getattr(__import__(f"lowtide.{module}", fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'lowtide' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
