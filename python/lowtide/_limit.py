"""A soft limit on this process's memory: give back before the kernel takes."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from lowtide import _core

_SLICE_BYTES = 2 << 20  # other threads run between two slices of a shrinking
_RESERVE_SHARE, _RESERVE_MAX = 20, 64 << 20
_STEPS = ("caches", "collect", "trim", "callbacks")


class Pressure(NamedTuple):
    """What a callback is told."""

    source: str
    """Which gauge is fullest: ``rss``, ``cgroup``, ``data`` (RLIMIT_DATA), ``space`` (RLIMIT_AS)."""
    used_bytes: int
    limit_bytes: int
    """Of that gauge."""
    wanted_bytes: int
    """To give back, so that every gauge is at 80 % of its limit."""
    stalled: bool
    """No gauge is near its limit, but the kernel makes tasks wait for memory (PSI, memory.events)."""


class LimitStats(NamedTuple):
    """What a limit did so far."""

    pressures: int
    freed_bytes: dict[str, int]
    """By step: ``caches`` as the caches count it; ``collect``, ``trim`` and ``callbacks`` by which the RSS fell."""
    seconds: float
    """Spent in all steps; at most ``max_time_share`` of the time."""
    dumps: int
    held_bytes: int | None
    """What all caches together may hold for now; None: as much as their own bounds allow."""


Callback = Callable[[Pressure], object]


class _Runner:
    """One callback. It runs in a thread of its own, so that one that hangs holds up nobody but itself."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.thread: threading.Thread | None = None
        self.told = False

    def start(self, pressure: Pressure) -> None:
        if self.thread and self.thread.is_alive():
            return
        self.thread = threading.Thread(target=self.run, args=(pressure,), name="lowtide-pressure", daemon=True)
        try:
            self.thread.start()
        except (RuntimeError, MemoryError) as error:  # no memory for a thread, or the interpreter ends
            self.thread = None
            _report(error, self.callback)

    def run(self, pressure: Pressure) -> None:
        try:
            self.callback(pressure)
        except BaseException as error:
            _report(error, self.callback)

    def wait(self, until: float) -> None:
        if not self.thread:
            return
        self.thread.join(max(0.0, until - time.monotonic()))
        if self.thread.is_alive() and not self.told:
            self.told = True
            _warn(f"{self.callback!r} is still busy with memory pressure; lowtide goes on without it until it returns")


def _report(error: BaseException, place: object) -> None:
    _core.report(error, place)


@contextlib.contextmanager
def _soft_limits_raised() -> Iterator[None]:
    """The copy that writes a recording inherits our limits, and its tables need more than what is left below them."""
    import resource

    kinds = resource.RLIMIT_DATA, resource.RLIMIT_AS
    before = [resource.getrlimit(kind) for kind in kinds]
    try:
        for kind, (_, hard) in zip(kinds, before):
            resource.setrlimit(kind, (hard, hard))
        yield
    finally:
        for kind, limits in zip(kinds, before):
            resource.setrlimit(kind, limits)


def _warn(text: str) -> None:
    with contextlib.suppress(Warning):  # made an error by a filter: it would end our thread
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class Limit:
    """A soft limit that is in force; :func:`limit` makes one. As a context manager it is in force for the block."""

    def __init__(
        self,
        limit_bytes: int,
        callbacks: Iterable[Callback],
        dump_near_limit: str | None,
        max_time_share: float,
        dump_every_s: float,
        callback_timeout_s: float,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.dump_path = dump_near_limit
        self.max_time_share = max_time_share
        self._dump_every_s, self._timeout_s = dump_every_s, callback_timeout_s
        self._runners = [_Runner(callback) for callback in callbacks]
        self._pressures = self._dumps = 0
        self._freed = dict.fromkeys(_STEPS, 0)
        self._seconds = 0.0
        self._owner = os.getpid()
        self._closed = False
        self._start()
        _limits.add(self)

    def _start(self) -> None:
        self._watch = _core.limit_open(self.limit_bytes, self.max_time_share)
        self._reserve: object = None
        wanted = [(self._act_forever, "lowtide-limit")]
        if self.dump_path is not None:
            self._set_aside()
            wanted.append((self._dump_forever, "lowtide-near-limit"))
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for target, name in wanted]
        for thread in self._threads:
            thread.start()

    def on_pressure(self, callback: Callback) -> Callback:
        """Call this one too, from the next pressure on. Returns it, and so serves as a decorator."""
        self._runners = [*self._runners, _Runner(_checked(callback))]
        return callback

    def remove(self, callback: Callback) -> None:
        """Call it no more. Raises ValueError where it is none of this limit's."""
        left = [runner for runner in self._runners if runner.callback != callback]
        if len(left) == len(self._runners):
            raise ValueError(f"{callback!r} is no callback of this limit")
        self._runners = left

    @property
    def stats(self) -> LimitStats:
        return LimitStats(self._pressures, dict(self._freed), self._seconds, self._dumps, _ceilings.get(self))

    @property
    def state(self) -> Pressure:
        """How it stands now, pressure or not."""
        return _pressure(_core.limit_read(self._watch))

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Take the limit back. What is being done ends first, but for callbacks. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        _limits.discard(self)
        _core.limit_stop(self._watch)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._hold_caches(None)
        self._reserve = None

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<lowtide.Limit of {self.limit_bytes} bytes{', closed' if self._closed else ''}>"

    def _act_forever(self) -> None:
        watch = self._watch
        while (state := _core.limit_wait(watch, False)) is not None:
            if state:
                self._act(watch, state)
            else:
                self._hold_caches(None)

    def _dump_forever(self) -> None:
        watch = self._watch
        while state := _core.limit_wait(watch, True):
            self._dump(state)
            if not _core.limit_sleep(watch, self._dump_every_s):
                return
            self._set_aside()

    def _act(self, watch: object, state: Any) -> None:
        began = time.perf_counter_ns()
        self._pressures += 1
        pressure = _pressure(state)
        left = pressure.wanted_bytes
        *_, asked, over = state
        light = False
        try:
            light = asked > 0 and self._act_on_caches(asked, over)
        except Exception as error:
            _report(error, self._act_on_caches)
        for step in () if light else (self._shrink_caches, self._collect, self._trim, self._call):
            try:
                left -= step(pressure, left)
            except Exception as error:
                _report(error, step)
        took = time.perf_counter_ns() - began
        self._seconds += took / 1e9
        _core.limit_acted(watch, state, took, light)

    def _act_on_caches(self, asked: int, over: int) -> bool:
        """They give a little and grow no more. What they gave stays with the allocator, which serves the program from it: no
        page goes and comes again."""
        keep = sys.modules.get("lowtide._keep")
        held: int = keep.total_bytes() if keep else 0
        if held <= asked or self._shrink(asked) < asked:
            return False
        self._hold_caches(held - over)
        return True

    def _hold_caches(self, bytes: int | None) -> None:
        if bytes is None:
            _ceilings.pop(self, None)
        else:
            _ceilings[self] = bytes
        if keep := sys.modules.get("lowtide._keep"):
            keep.ceiling(min(_ceilings.values(), default=None))

    def _shrink_caches(self, pressure: Pressure, left: int) -> int:
        self._hold_caches(None)
        return self._shrink(left)

    def _shrink(self, left: int) -> int:
        keep = sys.modules.get("lowtide._keep")
        freed = 0
        while keep and freed < left and not self._closed:
            part: int = keep.shrink(min(_SLICE_BYTES, left - freed))
            if part <= 0:
                break
            freed += part
        self._freed["caches"] += freed
        return freed

    def _collect(self, pressure: Pressure, left: int) -> int:
        # A full collection costs by what is alive, not by what it brings: only where the caches did not do.
        if left <= 0:
            return 0
        before = _core.rss_bytes()
        gc.collect()
        return self._note("collect", before)

    def _trim(self, pressure: Pressure, left: int) -> int:
        before = _core.rss_bytes()
        for layer in ("pymalloc", "malloc"):
            with contextlib.suppress(RuntimeError):  # a Python that lowtide does not know
                _core.free_step(layer, False)
        self._note("trim", before)
        return 0  # these bytes were counted when they were let go

    def _call(self, pressure: Pressure, left: int) -> int:
        runners = self._runners
        if not runners:
            return 0
        now = _pressure(_core.limit_read(self._watch))
        if left <= 0 and now.used_bytes < now.limit_bytes // 10 * 9:
            return 0
        before = _core.rss_bytes()
        for runner in runners:
            runner.start(now)
        until = time.monotonic() + self._timeout_s
        for runner in runners:
            runner.wait(until)
        return self._note("callbacks", before)

    def _note(self, step: str, before: int) -> int:
        freed: int = max(0, before - _core.rss_bytes())
        self._freed[step] += freed
        return freed

    def _set_aside(self) -> None:
        """Memory that is let go when a recording is written, for the copy that writes it."""
        with contextlib.suppress(MemoryError):
            self._reserve = _core.reserve(min(self.limit_bytes // _RESERVE_SHARE, _RESERVE_MAX))

    def _dump(self, state: Any) -> None:
        from lowtide._inside import snapshot

        assert self.dump_path is not None
        self._reserve = None
        try:
            path = self.dump_path
            with _soft_limits_raised():
                snapshot(path)
            self._dumps += 1
            now = _pressure(state)
            print(
                f"lowtide: {now.used_bytes} of {now.limit_bytes} bytes ({now.source}) are in use; "
                f"what holds them is in {path}: lowtide report {path}",
                file=sys.stderr,
            )
        except Exception as error:
            _report(error, snapshot)

    def _renew(self) -> None:
        """In a forked child, where threads are gone and locks may be held for ever."""
        self._runners = [_Runner(runner.callback) for runner in self._runners]
        self._hold_caches(None)
        self._pressures = self._dumps = 0
        self._freed = dict.fromkeys(_STEPS, 0)
        self._seconds = 0.0
        self._owner = os.getpid()
        if self.dump_path is not None:
            stem, suffix = os.path.splitext(self.dump_path)
            self.dump_path = f"{stem}.{self._owner}{suffix}"
        self._start()


def _pressure(state: Any) -> Pressure:
    source, stalled, used, hard, wanted, *_ = state
    return Pressure(source, used, hard, wanted, bool(stalled))


# Those in force; a program need not keep what limit() returned.
_limits: set[Limit] = set()
# How much all caches may hold, as each limit has it; the least counts.
_ceilings: dict[Limit, int] = {}


def _after_fork() -> None:
    _ceilings.clear()
    for limit in list(_limits):
        try:
            limit._renew()
        except Exception as error:  # no memory or no thread to be had: the child runs on without
            _report(error, limit)


@atexit.register
def _close_all() -> None:
    for limit in list(_limits):
        limit.close()


os.register_at_fork(after_in_child=_after_fork)


def _checked(callback: object) -> Callback:
    if not callable(callback):
        raise TypeError(f"on_pressure must be callable, not {callback!r}")
    return callback


def _callbacks(given: Callback | Iterable[Callback] | None) -> list[Callback]:
    if given is None:
        return []
    if callable(given):
        return [given]
    try:
        several = list(given)
    except TypeError:
        raise TypeError(f"on_pressure must be callable, or several that are, not {given!r}") from None
    return [_checked(callback) for callback in several]


def _dump_path(given: str | os.PathLike[str]) -> str:
    path = os.path.abspath(os.fspath(given))
    # Said now: near the limit nobody could mend it. It is written beside the file and renamed.
    if os.path.isdir(path) or not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise ValueError(f"dump_near_limit cannot be written to {path}: name a file in a directory that is there")
    return path


def _bytes(value: int | str) -> int:
    if isinstance(value, str):
        size, total = _core.limit_parse(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        size, total = value, _core.limit_parse("1")[1]
        if size <= 0:
            raise ValueError(f"{size} bytes are no limit: write bytes, or text like '2GiB', '80%' or '-2GiB' (all but)")
    else:
        raise TypeError(f"a limit is bytes, or text like '2GiB', '80%' or '-2GiB' (all but), not {value!r}")
    if size > total:
        raise ValueError(f"a limit of {size} bytes is above the {total} that this process may have at most: lower it")
    return size


def limit(
    memory: int | str,
    /,
    *,
    on_pressure: Callback | Iterable[Callback] | None = None,
    dump_near_limit: str | os.PathLike[str] | None = None,
    max_time_share: float = 0.1,
    dump_every_s: float = 600,
    callback_timeout_s: float = 1,
) -> Limit:
    """Keep this process below ``memory`` where that can be done, and leave a recording where it cannot.

    memory: bytes, or text: ``"2GiB"``, ``"80%"`` of what the process may have (the machine's memory, or its cgroup's where
        that is less), ``"-2GiB"``: all but that.
    on_pressure: called with a :class:`Pressure`, in a thread of its own, when the steps before did not do.
    dump_near_limit: where a recording goes when 95 % of a limit are in use, at most every ``dump_every_s`` seconds.
    max_time_share: of all time, that giving back may take.
    callback_timeout_s: how long a callback is waited for. It runs on, and is not called again before it returned.

    Watches resident memory against ``memory``, and beside it the limits that others have set: cgroup v2 (``memory.max``,
    ``memory.high``) or v1, RLIMIT_DATA, RLIMIT_AS; PSI too. At 90 % of one of them, down to 80 %: entries of
    ``lowtide.Cache`` and ``lowtide.cache`` go, the least valuable bytes first; then a full collection, if that was not
    enough; allocators are trimmed; then ``on_pressure``. What brings nothing is tried more and more seldom. It is a soft
    limit: nothing is killed, no allocation fails. Forked children get the limit too, each for itself.

    Raises ValueError for what is no size, and for more than the process may have. Warns (RuntimeWarning) when more is in use
    already; then there is pressure at once.
    """
    size = _bytes(memory)
    if not 0 < max_time_share <= 1:
        raise ValueError(f"max_time_share is a share of time above 0 and up to 1, not {max_time_share!r}")
    if not dump_every_s >= 0 or not callback_timeout_s >= 0:
        raise ValueError("dump_every_s and callback_timeout_s must not be negative")
    callbacks = _callbacks(on_pressure)
    used = _core.rss_bytes()
    if used > size:
        warnings.warn(f"{used} bytes are resident already, more than the limit of {size}", RuntimeWarning, stacklevel=2)
    path = None if dump_near_limit is None else _dump_path(dump_near_limit)
    return Limit(size, callbacks, path, max_time_share, dump_every_s, callback_timeout_s)
