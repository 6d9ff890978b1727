"""What a block of code left behind."""

from __future__ import annotations

import os
import threading
from array import array
from typing import Any, NamedTuple

from lowtide import _core
from lowtide._executable import executable
from lowtide._inside import _capture

_one_at_a_time = threading.Lock()  # captures of this process: blocks of other threads wait their turn


def _renew() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_renew)


def _in_turn(recording: int, values: bool) -> None:
    _one_at_a_time.acquire()  # no `with`: the method that it keeps for its end would be born in the block
    try:
        _capture(recording, values=values)
    finally:
        _one_at_a_time.release()


class Survivors(NamedTuple):
    """Objects of one type that were born in the block and were alive at its end."""

    type: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks a row for
    bytes: int
    paths: list[str]
    """What holds the largest of them, as :func:`lowtide.why` says it; asked for the types with the most bytes only."""


class Scope:
    """What :func:`scope` gives; its figures are there once the block has ended."""

    survivors: list[Survivors]
    """By type, most bytes first."""
    bytes: int
    """Of all survivors: their own blocks and the buffers that they own."""
    peak_bytes: int
    """How far resident memory rose above where it stood at the begin; looked at every 2 ms."""
    freed_bytes: int
    """With ``free=True``: what :func:`lowtide.free` gave back at the end."""

    def __init__(self, free: bool, holders: int) -> None:
        self._free, self._holders = free, holders
        self._before = -1
        self._peak_rss = 0
        self.survivors = []
        self.bytes = self.peak_bytes = self.freed_bytes = 0

    def _measure_peak(self) -> None:
        self._peak_rss = _core.limit_peak(self._watch)

    def __enter__(self) -> Scope:
        if self._before >= 0:
            raise RuntimeError("this scope is entered already")
        import json  # noqa: F401  what the end will need is not born in the block
        import subprocess  # noqa: F401

        self._watch = _core.limit_open(1 << 62, 1)
        self._thread = threading.Thread(target=self._measure_peak, name="lowtide-scope", daemon=True)
        self._thread.start()
        self._begin_rss = array("q", [0])  # written in place: no number of ours is born in the block
        self._before = os.memfd_create("lowtide")
        try:
            _in_turn(self._before, False)
        except BaseException:
            self._end()
            raise
        self._begin_rss[0] = _core.rss_bytes()
        return self

    def _end(self) -> None:
        _core.limit_stop(self._watch)
        self._thread.join()
        os.close(self._before)
        self._before = -1

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        del kind, error, traceback
        after = os.memfd_create("lowtide")
        try:
            _in_turn(after, True)
            _core.limit_stop(self._watch)
            self._thread.join()
            self.peak_bytes = max(0, self._peak_rss - self._begin_rss[0])
            born = _core.born(f"/proc/self/fd/{self._before}", f"/proc/self/fd/{after}")
            self._tell(born, after)
        finally:
            self._end()
            os.close(after)
        if self._free:
            from lowtide._ledger import free

            self.freed_bytes = free().returned_bytes

    def _tell(self, born: list[tuple[str, int, int, int]], after: int) -> None:
        groups: dict[str, tuple[int, int, int]] = {}
        for name, count, size, largest in born:
            old = groups.get(name, (0, 0, largest))
            groups[name] = old[0] + count, old[1] + size, old[2]
        rows = sorted(groups.items(), key=lambda row: (-row[1][1], row[0]))
        self.bytes = sum(size for _, (_, size, _) in rows)
        self.survivors = [
            Survivors(name, count, size, _holders(after, largest) if i < self._holders else [])
            for i, (name, (count, size, largest)) in enumerate(rows)
        ]


def _holders(recording: int, address: int) -> list[str]:
    import json
    import subprocess

    command = [executable(), "why", f"/proc/self/fd/{recording}", hex(address), "--json"]
    done = subprocess.run(command, pass_fds=[recording], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().removeprefix("lowtide: "))
    answer: dict[str, Any] = json.loads(done.stdout)
    return [path["path"] for path in answer["paths"]]


def scope(free: bool = False, *, holders: int = 3) -> Scope:
    """A context manager that tells what was born in its block and is still alive at its end.

    free: give back at the end what nothing needs (:func:`lowtide.free`).
    holders: for how many types to say what holds them.

    The heap is captured at the begin and at the end, as by :func:`lowtide.snapshot`. An object is known by its address and
    type: one whose place another of its type took while the block ran counts as the old one, so survivors are certain, and
    may not be all. What other threads made meanwhile is among them.

    >>> with scope() as s:              # doctest: +SKIP
    ...     handle(request)
    >>> s.survivors[0]                  # doctest: +SKIP
    Survivors(type='app.Session', count=12, bytes=1536, paths=["app.sessions['u17']"])
    """
    return Scope(free, holders)
