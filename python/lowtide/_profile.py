"""The allocation profile from inside: which lines make the memory, now, at the peak, and in total."""

from __future__ import annotations

import errno
import itertools
import os

from lowtide import _core


def start(*, exact: bool = False, interval: int | str = "512KiB", native: bool = False) -> None:
    """Begin to watch what this process allocates, until :func:`stop`.

    Sampled: one allocation in ``interval`` bytes on average (an int, or a text such as ``"64KiB"``), each chosen by
    chance and counted for what it stands for, so that the figures are unbiased and carry their error. With ``exact``
    every allocation is counted, which costs more time. With ``native`` frames of C code are told too. Other processes
    are not watched: the report says how many this one forked, but not how many programs it started.

    Raises RuntimeError where a profile is being taken already, or this Python is none that lowtide knows; ValueError
    where ``interval`` is no positive size up to 1 GiB, or ``exact`` leaves nothing to it.
    """
    if not isinstance(interval, (int, str)):
        raise TypeError(f"interval must be an int or a str, not {type(interval).__name__}")
    size = interval if isinstance(interval, int) else _core.limit_parse(interval)[0]
    if not 0 < size <= 1 << 30:
        raise ValueError(f"interval must be positive and at most 1 GiB, not {interval!r}")
    if exact and interval != "512KiB":
        raise ValueError("interval must be left out where exact counts every allocation")
    _core.profile_start(exact, size, native)


def stop(path: str | os.PathLike[str] | None = None, *, heap: bool = True) -> str:
    """End the profile and write it to ``path``, which is returned.

    Left out, it is ``lowtide-PID.tide`` in the working directory, or ``lowtide-PID-2.tide`` and so on where that is taken.

    ``lowtide report`` shows it. With ``heap`` the recording holds the heap too, as :func:`lowtide.snapshot` writes it,
    so that the report says which line made what is still held.

    Raises RuntimeError where no profile is being taken, and OSError where the file cannot be written or the heap not
    be captured, in which case the profile goes on.
    """
    from lowtide._inside import _append_gpus, _capture
    from lowtide._output import Output

    name = os.fspath(path) if path is not None else None
    if name is not None and os.path.exists(name) and not os.path.isfile(name):
        code = errno.EISDIR if os.path.isdir(name) else errno.EINVAL
        raise OSError(code, f"{os.strerror(code)}: a recording of a profile is written to a file", name)
    with Output(name or f"lowtide-{os.getpid()}.tide") as output:
        if heap:
            _capture(output.fd, values=True)
            _append_gpus(output.fd)
        _core.profile_stop(output.fd, heap)
        if name is None:
            name = _name_fresh()
        output.publish(os.path.basename(name))
    return name


def _name_fresh() -> str:
    """Take the first name that is free, so that of two that end at once none replaces the other's."""
    for number in itertools.count(1):
        name = f"lowtide-{os.getpid()}.tide" if number < 2 else f"lowtide-{os.getpid()}-{number}.tide"
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            continue
        return name
    raise AssertionError


def mark(text: str) -> None:
    """Mark this moment on the timeline of the profile being taken, here or by ``lowtide run``; else do nothing."""
    _core.profile_mark(text)
