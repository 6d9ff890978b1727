"""The names that a stream reads and writes: none of them may be another's."""

from __future__ import annotations

import os
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
    try:
        return os.path.realpath(f"/proc/self/fd/{file.fileno()}")
    except (AttributeError, OSError, ValueError):
        return None


def check_apart(sources: Iterable[Any], out: Any, errors: str | None, checkpoint: str | None, tables: bool) -> None:
    """Raises StreamError where a run would write over what it reads, or over something else that it writes."""
    taken = {os.path.realpath(name): "is read" for name in map(name_of, sources) if name}
    written: list[tuple[str, str | None, tuple[str, ...]]] = [
        ("written", name_of(out), (".part", ".part.whole") if tables else (".part",)),
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
            if path in taken:
                way = "" if path == real else f", on the way to {name}"
                raise StreamError(f"{shown} {taken[path]} and {does}{way}; write to another name")
        taken.update(dict.fromkeys(ours, f"is {does}" if does == "written" else does))
