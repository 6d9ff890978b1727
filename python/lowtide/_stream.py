"""``lowtide.stream``: functions over a source of any size, in chunks that stay below a ceiling of memory."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Generic, Literal, TypeVar, overload

from lowtide._stream_bar import Bar
from lowtide._stream_engine import Progress
from lowtide._stream_job import Batches, Job, Summary
from lowtide._stream_memory import StreamError, parse_bytes
from lowtide._stream_source import (
    FORMATS,
    Options,
    Source,
    is_paths,
)
from lowtide._stream_workers import check_executor, reads_our_files

__all__ = ["Progress", "Stream", "StreamError", "Summary", "stream"]


_T = TypeVar("_T")
_R = TypeVar("_R")
_A = TypeVar("_A")


class Stream(Generic[_T]):
    """A source and what is to be done with it; nothing happens before :meth:`write`, :meth:`reduce` or iteration.

    Each method gives a new stream. Functions get records: ``str`` lines without their newline, ``bytes``, dicts of CSV
    (lists with ``header=False``), what a line of JSON says, dicts of Parquet and Arrow, or the items of an iterable.
    """

    def __init__(self, source: Any, settings: dict[str, Any]) -> None:
        self._source, self._settings = source, settings
        self._ops: tuple[tuple[str, Callable[..., Any]], ...] = ()

    def _with(self, name: str, f: Callable[..., Any]) -> Stream[Any]:
        if not callable(f):
            raise TypeError(f"{name} takes a function, not {type(f).__name__}")
        if inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f):
            shown = getattr(f, "__qualname__", f)
            raise TypeError(f"{shown} is async, and nothing would await it; let map_chunks call asyncio.run for a list")
        new = copy.copy(self)
        new._ops = (*self._ops, (name, f))
        return new

    @overload
    def map(self, f: Callable[[_T], Iterator[_R]]) -> Stream[_R]: ...
    @overload
    def map(self, f: Callable[[_T], _R]) -> Stream[_R]: ...
    def map(self, f: Callable[[_T], Any]) -> Stream[Any]:
        """``f(record)`` in place of each record; all that a generator function yields."""
        return self._with("map", f)

    def filter(self, f: Callable[[_T], object]) -> Stream[_T]:
        """The records for which ``f(record)`` is true."""
        return self._with("filter", f)

    @overload
    def map_chunks(self, f: Callable[[list[_T]], Iterable[_R]]) -> Stream[_R]: ...
    @overload
    def map_chunks(self, f: Callable[[Any], Any]) -> Stream[Any]: ...
    def map_chunks(self, f: Callable[[Any], Any]) -> Stream[Any]:
        """``f(records)``, a list of records for a list of some size, as memory allows.

        Of Parquet and Arrow, as the first function, ``f`` gets a ``pyarrow.Table``, and may give one back.
        """
        return self._with("chunks", f)

    def _pipe(self, f: Callable[[Any], Any]) -> Stream[Any]:
        """As ``lowtide pipe`` has it: None drops the record, a generator gives many."""
        return self._with("pipe", f)

    def batch(self, size: int | str) -> Stream[list[_T]]:
        """Lists of `size` records, or of about so many bytes (text, ``"1MiB"``); the last may be smaller.

        Batches do not depend on how the source was cut. They are put together in this process.
        """
        by_bytes = isinstance(size, str)
        limit = parse_bytes(size, "batch") if by_bytes else size
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f'batch takes a number of records or bytes as text, such as "1MiB", not {size!r}')
        return Stream(Batches(self, limit, by_bytes), self._settings)

    def __iter__(self) -> Iterator[_T]:
        """The records, in order. A record that raises stops the iteration, unless ``errors="skip"``."""
        return Job(self, "records").records()

    def reduce(self, f: Callable[[_A, _T], _A], initial: _A, combine: Callable[[_A, _A], _A] | None = None) -> _A:
        """``f(so_far, record)`` over all records, as ``functools.reduce``.

        combine: ``combine(a, b)`` of two partial results; then workers fold their own chunks, each from a copy of
            `initial`, and only partial results travel. With a checkpoint the result so far, pickled, is in it.
        """
        if combine is None:
            job = Job(self, "records")
            folded: _A = job.fold(lambda so_far, part: functools.reduce(f, part, so_far), initial, (f,))
            return folded
        job = Job(self._with("fold", f), "fold", initial=initial)
        combined: _A = job.fold(combine, copy.deepcopy(initial), (f, combine))
        return combined

    def write(self, out: str | os.PathLike[str] | IO[bytes], format: str | None = None) -> Summary:
        """Writes the records to a file, in the order of the source, and says what was done.

        out: a path; its suffix says the format (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, ``.arrow``; else text, a
            record a line) and compression (``.gz``, ``.bz2``, ``.xz``, ``.zst``). It has its name once it is whole.
            Or an open binary file, written as it comes.
        format: ``text``, ``bytes``, ``csv``, ``jsonl``, ``parquet`` or ``arrow``, instead of the suffix.
        """
        return Job(self, "write", out=out, format=format).write()


@overload
def stream(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | IO[bytes],
    memory: int | str = "512MiB",
    *,
    workers: int = 0,
    executor: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool | Literal["changed"] = False,
    errors: str | os.PathLike[str] = "raise",
    format: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    columns: Iterable[str] | None = None,
    progress: bool | Callable[[Progress], object] | None = False,
) -> Stream[Any]: ...
@overload
def stream(
    source: Iterable[_T],
    memory: int | str = "512MiB",
    *,
    workers: int = 0,
    executor: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool | Literal["changed"] = False,
    errors: str | os.PathLike[str] = "raise",
    format: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    columns: Iterable[str] | None = None,
    progress: bool | Callable[[Progress], object] | None = False,
) -> Stream[_T]: ...
def stream(
    source: Any,
    memory: int | str = "512MiB",
    *,
    workers: int = 0,
    executor: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool | Literal["changed"] = False,
    errors: str | os.PathLike[str] = "raise",
    format: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    columns: Iterable[str] | None = None,
    progress: bool | Callable[[Progress], object] | None = False,
) -> Stream[Any]:
    """A stream over `source`, whose process tree stays below `memory`.

    source: a path, a pattern (``"logs/*.gz"``), a list of them, an open binary file, or any iterable. The suffix says
        the format (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, ``.arrow``; else lines of text) and the compression.
    memory: bytes, or text like ``"512MiB"``: the ceiling of this process and its workers together.
    workers: processes that do the work; 0 does it in this one.
    executor: any ``concurrent.futures.Executor``, or a Dask client, instead of own workers.
    resume: keep a checkpoint beside the output, and go on from it where there is one. ``"changed"`` accepts functions
        that were changed since.
    checkpoint: where it is kept instead; with it, resume is meant. :meth:`Stream.reduce` needs it to go on.
    errors: what becomes of a record whose function raises or kills its worker. ``"raise"``: StreamError with its place;
        ``"skip"``; or a path: it is set aside there, a line of JSON with its file, number and error.
    format, delimiter, header, columns: of the source: ``text``, ``bytes``, ``csv``, ``jsonl``, ``parquet`` or ``arrow``;
        of CSV, between fields, and whether its first line has their names (else records are lists); of Parquet and
        Arrow, which columns to read.
    progress: True shows a bar on a terminal, or a function that gets :class:`Progress`.

    Raises StreamError, one line, for whatever stops it: see docs/stream.md.
    """
    if not is_paths(source) and not isinstance(source, (Source, io.IOBase, Iterable)):
        raise TypeError(f"a stream reads paths or an iterable, not {type(source).__name__}")
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "__dataframe__"):
        what = "to_dict('records')" if hasattr(source, "iloc") else "to_pylist() or to_dicts()"
        mend = (
            f"its records, such as {what}"
            if hasattr(source, "__dataframe__")
            else "io.BytesIO of it, or its name as str"
        )
        raise TypeError(f"a stream reads paths or an iterable, not {type(source).__name__}; hand over {mend}")
    try:
        count = operator.index(workers)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"workers takes 0 or more, not {workers!r}")
    if executor is not None:
        check_executor(executor)
    if format is not None and format not in FORMATS:
        raise ValueError(f"format takes {', '.join(FORMATS)}, not {format!r}")
    if resume not in (True, False, "changed"):
        raise ValueError(f"resume takes True, False or 'changed', not {resume!r}")
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise ValueError(f"delimiter takes one ASCII character, such as ';', not {delimiter!r}")
    if isinstance(columns, str):
        raise TypeError(f"columns takes a list of names, not {columns!r}")
    chosen = tuple(columns) if columns is not None else None
    if chosen == ():
        raise ValueError("columns takes at least one name; leave it out for all")
    if not os.fspath(errors):
        raise ValueError("errors takes raise, skip or a path")
    if not callable(progress) and progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress takes True, False or a function, not {type(progress).__name__}")
    told: Callable[[Progress], object] | None = progress if callable(progress) else None
    if progress is True:
        told = Bar(sys.stderr) if sys.stderr.isatty() else None
    settings = {
        "memory": parse_bytes(memory),
        "workers": count,
        "executor": executor,
        "checkpoint": os.fspath(checkpoint) if checkpoint is not None else None,
        "resume": resume,
        "keep": False,
        "keep_at": None,
        "errors": os.fspath(errors),
        "progress": told,
        "options": Options(
            format,
            delimiter,
            header,
            chosen,
            travels=bool(count) or executor is not None,
            spans=reads_our_files(executor),
        ),
    }
    return Stream(source, settings)
