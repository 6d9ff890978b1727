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

from typing import TYPE_CHECKING

from lowtide._inside import Snapshot, retained, snapshot, why
from lowtide._ledger import Freed, Layer, Ledger, Line, Pin, free, rss
from lowtide._profile import mark, start, stop

if TYPE_CHECKING:
    from lowtide._cache import Cache, cache
    from lowtide._gpu import Gpu, GpuCache, GpuMemory, gpu
    from lowtide._isolate import isolate
    from lowtide._limit import Limit, LimitStats, Pressure, limit
    from lowtide._pool import Pool
    from lowtide._pool_errors import IsolatedMemoryError, IsolatedTimeout, RemoteError, WorkerDied
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

# Who only takes snapshots carries no cache, whose extension is built for one Python alone, and no threads.
_LATER = {
    "load_ipython_extension": "_ipython",
    "Cache": "_cache",
    "cache": "_cache",
    "Limit": "_limit",
    "LimitStats": "_limit",
    "Pressure": "_limit",
    "limit": "_limit",
    "Gpu": "_gpu",
    "GpuCache": "_gpu",
    "GpuMemory": "_gpu",
    "gpu": "_gpu",
    "Scope": "_scope",
    "Survivors": "_scope",
    "scope": "_scope",
    "isolate": "_isolate",
    "Pool": "_pool",
    "IsolatedMemoryError": "_pool_errors",
    "IsolatedTimeout": "_pool_errors",
    "RemoteError": "_pool_errors",
    "WorkerDied": "_pool_errors",
    "Stream": "_stream",
    "StreamError": "_stream",
    "Summary": "_stream",
    "stream": "_stream",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'lowtide' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"lowtide.{_LATER[name]}"), name)
    globals()[name] = value
    return value
