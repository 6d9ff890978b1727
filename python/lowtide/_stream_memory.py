"""What a process and its children take, and how large a chunk may be so that they stay below a ceiling."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_IEC = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PAGE = os.sysconf("SC_PAGE_SIZE")

CHUNK_MIN = 4 << 10
CHUNK_FIRST = 64 << 10  # small enough to learn by, whatever a function does with it
CHUNK_MAX = 2 << 20  # beyond this nothing gets faster
CHUNK_MAX_TABLES = 16 << 20  # where functions take tables: a call of theirs costs the same for any
_CHUNK_S = 1.0  # what a chunk takes at most: nothing of it is kept before it is done
_LEAST = 2 << 20, 4 << 20  # bytes below the ceiling, and a worker, that records of text need; measured
_LEAST_TABLES = 24 << 20, 12 << 20
_TABLE_WRITER = 28 << 20  # what it takes to write a row group of Parquet
_ARENA = 1 << 20  # Python's allocator takes and gives so much at a time
_COST_MIN = 3.0  # bytes of memory a byte of source takes at the least: as read, as written, and on its way


class StreamError(Exception):
    """What stopped a stream: one line, cause first. With a checkpoint, the same call goes on from there."""


class StreamWarning(UserWarning):
    """What a stream passed over."""


def parse_bytes(size: int | str, what: str = "memory") -> int:
    """Bytes of an int, or of text such as ``"512MiB"``, ``"1.5GB"``, ``"512M"`` (a bare letter means IEC units).

    Raises ValueError where it says no size above zero.
    """
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)\s*", size, re.IGNORECASE)
        if not found:
            raise ValueError(f'{what} takes bytes, such as 536870912 or "512MiB", not {size!r}')
        number, letter, end = found.groups()
        units = _UNITS if end.lower() == "b" or not letter else _IEC
        size = int(float(number) * units[letter.lower()])
    if size <= 0:
        raise ValueError(f"{what} must be above zero, not {size}")
    return size


def text_bytes(size: float) -> str:
    """``1.5 GiB``, as the command line shows sizes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


_files: dict[str, tuple[int, int]] = {}  # of figures that are read again and again: the process, and its own


def _proc(name: str) -> bytes:
    pid = os.getpid()
    known, file = _files.get(name, (0, -1))
    if known != pid:  # a forked child would read its parent's
        file = os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC)
        _files[name] = pid, file
    return os.pread(file, 4096, 0)


def _figures() -> list[bytes]:
    return _proc("statm").split()


def rss_bytes() -> int:
    """Resident bytes of this process, now."""
    return int(_figures()[1]) * _PAGE


def own_bytes() -> int:
    """Resident bytes of this process without those mapped from files: libraries are many processes', and go by themselves."""
    figures = _figures()
    return (int(figures[1]) - int(figures[2])) * _PAGE


def data_bytes() -> int:
    """Private bytes of this process that can be written to, touched or not: what RLIMIT_DATA bounds, and the stack."""
    return int(_figures()[5]) * _PAGE


def peak_bytes() -> int:
    """The most that was ever resident in this process."""
    found = _proc("status").partition(b"VmHWM:")[2].split(None, 1)
    return int(found[0]) << 10 if found else rss_bytes()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
        except OSError:
            continue
    return found


def parent_of(pid: int) -> int:
    """0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass  # gone meanwhile
    return 0


def is_alone() -> bool:
    """Whether this process has no children."""
    return not _children(os.getpid())


def tree_bytes(more: Iterable[int] = ()) -> int:
    """Bytes that this process, those of `more`, and all their descendants hold; what several share counts once (PSS)."""
    own = os.getpid()
    waiting, seen = [own, *more], set()
    if len(waiting) == 1 and not _children(own):
        return rss_bytes()
    while waiting:
        pid = waiting.pop()
        if pid > 1 and pid not in seen:
            seen.add(pid)
            waiting += _children(pid)
    return sum(map(_pss_bytes, seen))


def trim() -> None:
    """Gives back what Python and libc hold and nothing needs."""
    gc.collect()
    trim_libc()


def trim_libc() -> None:
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Sizer:
    """How many bytes of source the next chunk may have.

    It learns what a byte of source costs in memory: the most by which a process grew during one of its last chunks, over
    that chunk's bytes. Chunks begin small and at most double, so that a function that takes a thousand times its input is
    found out at 64 KiB and not at 2 MiB.
    """

    def __init__(self, ceiling: int, chunk_max: int = CHUNK_MAX) -> None:
        self.ceiling, self.lanes, self.chunk_max = ceiling, 0, chunk_max
        self.taken = 0  # bytes of everybody, once all have started
        self.room = 0  # bytes below the ceiling once everybody has started
        self.cost = _COST_MIN
        self.target = CHUNK_FIRST
        self.tables = False
        self.light = False  # chunks go to workers as places in a file: nothing of them lies here
        self._known: set[int] = set()
        self._costs: deque[float] = deque(maxlen=8)

    def begin(self, taken: int, lanes: int, tables: bool = False, writes_groups: bool = False) -> None:
        """Raises StreamError where too little is left beside the processes. lanes: workers; 0: it is done here."""
        kept = _TABLE_WRITER if writes_groups else 0
        self.lanes, self.taken, self.room = lanes, taken, self.ceiling - taken - kept
        self.tables = tables
        fixed, each = _LEAST_TABLES if tables else _LEAST
        least = fixed + each * max(1, lanes)
        if self.room < least:
            workers = f" and its {lanes} workers" if lanes > 1 else " and its worker" if lanes else ""
            # What processes take at their start differs by some MiB from run to run.
            lowest = -(-(taken + taken // 16 + kept + least) >> 20) + 1
            raise StreamError(
                f"the ceiling of {text_bytes(self.ceiling)} is too low: the program{workers} take{'' if lanes else 's'} "
                f"{text_bytes(taken)} before the first record; raise memory to {lowest} MiB or more"
            )
        self._settle()

    def next_bytes(self) -> int:
        """Of the next chunk. The very first of text is small: it may be that each record takes seconds."""
        return self.target if self._known or self.tables else min(self.target, CHUNK_MIN)

    def learn(self, pid: int, chunk: int, grown: int, seconds: float) -> None:
        """A process has done a chunk, and had so many bytes more meanwhile than before."""
        if pid not in self._known:
            self._known.add(pid)  # its first: imports and first uses are in it, which no later chunk pays
        else:
            self._costs.append(max(0, grown - _ARENA) / max(chunk, CHUNK_MIN))
            self.cost = max(_COST_MIN, *self._costs)
        in_time = int(max(chunk, 1) * _CHUNK_S / max(seconds, 1e-6))
        self.target = max(1, min(max(CHUNK_MIN, self.target, 2 * chunk), self._fitting(), in_time))

    def shrink(self) -> None:
        self.target = min(self.target, max(CHUNK_MIN, self.target // 2))

    def worker_room(self) -> int:
        """By how much a worker may grow beyond what it held at its start."""
        return max(1 << 20, int(self.room * 0.8 / max(1, self.lanes)))

    def record_max(self) -> int:
        """The longest record that can be read at all."""
        return max(CHUNK_MIN, int(self.room / (2.5 + self.lanes)))

    def held_max(self) -> int:
        """Bytes of chunks and results that may wait here."""
        return max(CHUNK_MIN, self.room // 4)

    def _fitting(self) -> int:
        # Beside the work itself lies what waits and what is on the way: about four copies a lane.
        each = self.lanes * (self.cost + (0 if self.light else 4)) if self.lanes else self.cost
        return max(CHUNK_MIN, min(self.chunk_max, int(self.room * 0.6 / each)))

    def _settle(self) -> None:
        self.target = min(self.target, self._fitting())
