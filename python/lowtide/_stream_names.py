"""The names that a stream reads and writes: none of them may be another's."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Any

from lowtide._stream_memory import StreamError
from lowtide._stream_source import write_beside


def checkpoint_beside(out: str) -> str:
    return write_beside(out)[: -len(".part")] + ".checkpoint"


def name_of(file: Any) -> str | None:
    """The path of a file by its name, or of one that is open; None of what has none."""
    if isinstance(file, (str, os.PathLike)):
        return os.fspath(file)
    status = _status(file)
    return os.path.realpath(f"/proc/self/fd/{file.fileno()}") if status and stat.S_ISREG(status.st_mode) else None


def _status(file: Any) -> os.stat_result | None:
    try:
        return os.stat(file if isinstance(file, (str, os.PathLike)) else file.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _inodes(files: Iterable[Any]) -> set[tuple[int, int]]:
    return {(status.st_dev, status.st_ino) for status in map(_status, files) if status}


_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|/(dev|proc/(self|thread-self|\d+))/fd/\d+")


def _check_named(name: str) -> None:
    """Raises StreamError for a descriptor's name that leads to a file: that would be replaced below whoever has it open."""
    path = os.path.abspath(name)
    for _ in range(40):
        if _DESCRIPTOR.fullmatch(path):
            if os.path.exists(name) and not os.path.isfile(name):
                return  # a pipe or a terminal
            raise StreamError(f"{name} is a descriptor; name the file, or write `-o -` for standard output")
        if not os.path.islink(path):
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))


def check_apart(sources: Iterable[Any], out: Any, errors: str | None, checkpoint: str | None, tables: bool) -> None:
    """Raises StreamError where a run would write over what it reads, or over something else that it writes."""
    for name in (out, errors, checkpoint):
        if isinstance(name, str):
            _check_named(name)
    sources = list(sources)
    read = _inodes(sources)
    taken = {os.path.realpath(name): "is read" for name in map(name_of, sources) if name}
    ends: tuple[str, ...] = (
        (".part", ".part.whole") if tables else (".part",) if isinstance(out, (str, os.PathLike)) else ()
    )
    written: list[tuple[str, str | None, tuple[str, ...]]] = [
        ("written", name_of(out), ends),
        ("takes the checkpoint", checkpoint, ("-journal",)),
        ("takes what is set aside", errors, (".part",)),
    ]
    for name, what in ((checkpoint, "a checkpoint"), (errors, "what is set aside")):
        if name is None:
            continue
        folder = os.path.dirname(os.path.realpath(name))
        if name.endswith("/") or os.path.isdir(name):
            raise StreamError(f"{name} names a folder; name a file in it for {what}")
        if not os.path.isdir(folder):
            raise StreamError(f"cannot keep {name}: the folder {folder} is not there")
    if checkpoint and os.path.exists(checkpoint) and not os.path.isfile(checkpoint):
        raise StreamError(f"{checkpoint} is no regular file; name one for a checkpoint")
    for does, name, ends in written:
        if name is None or (os.path.exists(name) and not os.path.isfile(name)):
            continue  # what is no file is written as it comes
        real = os.path.realpath(name)
        ours = {real: name, **{os.path.realpath(real + end): name + end for end in ends}}
        for path, shown in ours.items():
            if path not in taken and path != real and _inodes([path]) & read:
                taken[path] = "is read"  # by another link to it
            if path in taken:
                way = "" if path == real else f", on the way to {name}"
                raise StreamError(f"{shown} {taken[path]} and {does}{way}; write to another name")
        taken.update(dict.fromkeys(ours, f"is {does}" if does == "written" else does))
