"""The standard library's tracemalloc at a fraction of its cost: the same functions, classes and figures.

>>> from lowtide import tracemalloc                   # in place of: import tracemalloc
>>> tracemalloc.start(5)                              # doctest: +SKIP
>>> snapshot = tracemalloc.take_snapshot()            # doctest: +SKIP
>>> snapshot.statistics("lineno")[:3]                 # doctest: +SKIP

Snapshots, statistics and filters are the standard library's own classes, so a snapshot that one of the two wrote is read by the
other. What differs from it is told in docs/tracemalloc.md.
"""

from __future__ import annotations

import tracemalloc as _stdlib
import warnings
from tracemalloc import (
    BaseFilter,
    DomainFilter,
    Filter,
    Frame,
    Snapshot,
    Statistic,
    StatisticDiff,
    Trace,
    Traceback,
)
from typing import Any

from lowtide import _core
from lowtide._core import trace_clear as clear_traces
from lowtide._core import trace_is_on as is_tracing
from lowtide._core import trace_limit as get_traceback_limit
from lowtide._core import trace_memory as get_traced_memory
from lowtide._core import trace_of as _get_object_traceback
from lowtide._core import trace_own_bytes as get_tracemalloc_memory
from lowtide._core import trace_reset_peak as reset_peak

__all__ = [
    "BaseFilter",
    "DomainFilter",
    "Filter",
    "Frame",
    "Snapshot",
    "Statistic",
    "StatisticDiff",
    "Trace",
    "Traceback",
    "clear_traces",
    "get_object_traceback",
    "get_traceback_limit",
    "get_traced_memory",
    "get_tracemalloc_memory",
    "is_tracing",
    "reset_peak",
    "start",
    "stop",
    "take_snapshot",
]


def get_object_traceback(obj: object, /) -> Traceback | None:
    """Where ``obj`` was made; None when that was not traced."""
    frames = _get_object_traceback(obj)
    return None if frames is None else Traceback(frames)


_of_stdlib = _stdlib.get_object_traceback


def _of_either(obj: object) -> Traceback | None:
    found = _of_stdlib(obj)
    return get_object_traceback(obj) if found is None else found


def start(nframe: int = 1, /) -> None:
    """Trace from here on, with up to ``nframe`` frames of the stack for each block; does nothing when tracing already.

    Until :func:`stop` the standard library's ``get_object_traceback`` answers from this trace, too, so that a
    ResourceWarning says where its object was made.

    Raises ValueError unless 1 <= nframe <= 65535, RuntimeError where this Python is none that lowtide knows.
    """
    _core.trace_start(nframe)
    _stdlib.get_object_traceback = _of_either


def stop() -> None:
    """End tracing, and forget all that was traced."""
    _core.trace_stop()
    if _stdlib.get_object_traceback is _of_either:
        _stdlib.get_object_traceback = _of_stdlib


def _get_traces() -> list[Any]:
    traces, missed = _core.trace_blocks()
    if missed:
        warnings.warn(f"{missed} blocks were not traced: there was no memory", RuntimeWarning, stacklevel=3)
    return traces


def take_snapshot() -> Snapshot:
    """All blocks that were made since :func:`start` and are alive: their sizes, and where they were made.

    Raises RuntimeError when not tracing.
    """
    if not is_tracing():
        raise RuntimeError("the tracemalloc module must be tracing memory allocations to take a snapshot")
    return Snapshot(_get_traces(), get_traceback_limit())
