"""What a call in another process can end with, beside its own exceptions."""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor


class IsolatedMemoryError(MemoryError):
    """A call went over the memory that it was given; its process is gone, and all its memory with it.

    ``limit_bytes``: what it was given; ``rss_bytes``: the last reading of what it had resident.
    """

    def __init__(self, message: str, limit_bytes: int | None = None, rss_bytes: int | None = None) -> None:
        super().__init__(message)
        self.limit_bytes, self.rss_bytes = limit_bytes, rss_bytes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.limit_bytes, self.rss_bytes)


class IsolatedTimeout(TimeoutError):
    """A call took longer than it was given, and its process was killed. Its cause says where it stood."""


class WorkerDied(BrokenExecutor):
    """A process ended in the middle of a call: killed, crashed, or by ``os._exit``.

    ``signal``: the number of the signal that killed it, or None; ``exitcode``: its exit status, or None; ``pid``.
    Only the call that it was at work on fails; a pool goes on with a fresh process.
    """

    def __init__(
        self, message: str, pid: int | None = None, signal: int | None = None, exitcode: int | None = None
    ) -> None:
        super().__init__(message)
        self.pid, self.signal, self.exitcode = pid, signal, exitcode

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.pid, self.signal, self.exitcode)


class RemoteError(RuntimeError):
    """Stands for an exception that cannot be pickled; its message has the type and the words of the original."""


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in another process: the traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def size(count: float) -> str:
    """A count of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count != int(count) else f"{count:.0f} GiB"
