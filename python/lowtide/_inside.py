"""Looking at this process from inside: a snapshot of its heap, and what it says of one object."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple

from lowtide import _core


class Snapshot(NamedTuple):
    """What :func:`snapshot` wrote."""

    path: str
    objects: int
    references: int
    file_bytes: int
    pause_ms: float
    """How long the process stood still."""


def _capture(fd: int, values: bool) -> tuple[int, int, int, float]:
    objects, references, size, pause_us, _, _, note = _core.capture(fd, values)
    if note:
        warnings.warn(note, RuntimeWarning, stacklevel=3)
    return objects, references, size, pause_us / 1000


def _append_gpus(fd: int) -> None:
    if {"torch", "cupy"} & sys.modules.keys():
        from lowtide import _gpu

        _gpu.append_to(fd)


def snapshot(path: str | os.PathLike[str], values: bool = True) -> Snapshot:
    """Write a recording of this process's heap to ``path``, for ``lowtide report``, ``why``, ``diff`` and ``sql``.

    The process stands still for as long as a fork takes (about 25 ms a GB of resident memory); its copy writes the
    recording while other threads run on, and this call waits for it. The file appears under its name when it is
    whole, and takes the place of one that was there. With ``values=False`` it does not say what strings, numbers and
    bytes hold, except for the names of attributes and variables.

    Raises OSError where the file cannot be written, MemoryError where memory is short, RuntimeError where this Python
    is none that lowtide knows.
    """
    from lowtide._output import Output

    name = os.fspath(path)
    try:
        if os.path.exists(name) and not os.path.isfile(name):  # a device or a pipe, or a directory, which is refused
            fd = os.open(name, os.O_CLOEXEC | os.O_WRONLY)
            try:
                return Snapshot(name, *_capture(fd, values))
            finally:
                os.close(fd)
        with Output(name) as output:
            objects, references, _, pause_ms = _capture(output.fd, values)
            _append_gpus(output.fd)
            file_bytes = os.fstat(output.fd).st_size
            output.publish()
        return Snapshot(name, objects, references, file_bytes, pause_ms)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), name) from None


def _explain(verb: str, *words: str) -> dict[str, Any]:
    """What the executable says of this process, which is captured for the question."""
    import json
    import subprocess  # a program that only takes snapshots need not carry it

    from lowtide._executable import executable

    fd = os.memfd_create("lowtide")
    try:
        _capture(fd, values=True)
        command = [executable(), verb, f"/proc/self/fd/{fd}", *words, "--json"]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True)
    finally:
        os.close(fd)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().removeprefix("lowtide: "))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def why(obj: object, /, *, paths: int = 5) -> list[str]:
    """What keeps ``obj`` alive: up to ``paths`` paths to it, disjoint, the shortest first.

    A path is a Python expression where it can be (``app.cache['u17'].history[3]``; names of ``__main__`` stand bare),
    else it is told in steps (``thread MainThread > main() > rows``). No path: only what does not count holds it, or C
    code does. The process is captured as by :func:`snapshot`, into memory, and explained by another process.

    Raises ValueError if ``paths`` is not positive, else what :func:`snapshot` raises.
    """
    if paths < 1:
        raise ValueError("paths must be positive")
    address = id(obj)
    del obj  # this frame shall not be the answer
    return [path["path"] for path in _explain("why", hex(address), "--paths", str(paths))["paths"]]


def retained(obj: object, /) -> int:
    """How many bytes would go if ``obj`` went: its own and those of all that only it keeps alive.

    Exact, from the dominator tree over all objects of the process; at least ``sys.getsizeof(obj)``, less what of large
    blocks (64 KiB and more) was never touched: of ``numpy.zeros`` counts what has been written to. An object that only the
    call itself refers to is gone before it can be measured: give it a name first.

    Raises what :func:`why` raises.
    """
    address = id(obj)
    del obj
    return int(_explain("why", hex(address), "--paths", "1")["retained_bytes"])
