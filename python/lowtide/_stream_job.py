"""One run of a stream: what is read, done, written, set aside and kept to go on with."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lowtide._keep import deep_size
from lowtide._pool_child import refuse_while_importing
from lowtide._stream_codec import compress, pack, write_rows
from lowtide._stream_engine import Engine, Result, aside_line
from lowtide._stream_memory import StreamError
from lowtide._stream_names import check_apart, checkpoint_beside
from lowtide._stream_plan import Plan
from lowtide._stream_sink import DirectTableSink, FileSink, Sink, TableSink, open_part, publish
from lowtide._stream_source import (
    FORMATS,
    Items,
    Options,
    Source,
    delimiter_of,
    format_of,
    source_of,
    write_beside,
)
from lowtide._stream_state import Checkpoint, State, check_same, identity, left_beside
from lowtide._stream_tables import arrow
from lowtide._stream_workers import Workers, given_workers, own_workers

if TYPE_CHECKING:
    from lowtide._stream import Stream

_SAVE_EVERY_S = 1.0


@dataclass(frozen=True)
class Summary:
    """What a stream did, over all its runs."""

    records_in: int
    records_out: int
    aside: int  #: records set aside with their errors
    source_bytes: int  #: read, as they lie on the disk
    output_bytes: int
    chunks: int
    seconds: float
    peak_bytes: int  #: of the process tree in this run; pages that several processes share count once
    ceiling_bytes: int
    resumed: bool


class Batches(Source):
    """Batches of another stream's records. To go on, that stream is run again and what is done dropped."""

    kind = "records"

    def __init__(self, inner: Stream[Any], limit: int, by_bytes: bool) -> None:
        self.inner, self.limit, self.by_bytes = inner, limit, by_bytes
        self.base = source_of(inner._source, inner._settings["options"])
        self.aside: list[str] = []  # by the inner stream, and not yet taken over
        self.total, self.names = 0, [f"the batches of {', '.join(self.base.names[:3])}"]

    def marks(self) -> list[Any]:
        return self.base.marks()

    def reads(self) -> list[Any]:
        return self.base.reads()

    def _batches(self) -> Generator[list[Any], None, None]:
        batch: list[Any] = []
        size = 0
        job = Job(self.inner, "records")
        job.told = self.aside
        self.aside.clear()
        for record in job.records():
            batch.append(record)
            if self.by_bytes:
                size += len(record) if isinstance(record, (str, bytes)) else deep_size(record)
            if (size if self.by_bytes else len(batch)) >= self.limit:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def chunks(self, token: dict[str, int], want: Callable[[], tuple[int, int]]) -> Iterator[Any]:
        with contextlib.closing(self._batches()) as batches:
            yield from Items(batches, Options()).chunks(token, want)


class Job:
    """One run of a stream to its end."""

    def __init__(
        self, stream: Stream[Any], what: str, out: Any = None, format: str | None = None, initial: Any = None
    ) -> None:
        refuse_while_importing()  # in a worker, a program that is not guarded would do it all again
        self.settings = settings = stream._settings
        self.source = source_of(stream._source, settings["options"])
        self.ops = stream._ops
        self.what, self.out = what, os.fspath(out) if isinstance(out, (str, os.PathLike)) else out
        self.regular = isinstance(self.out, str) and (not os.path.exists(self.out) or os.path.isfile(self.out))
        name = self.out if isinstance(self.out, str) else ""
        suffix, compression = format_of(name)
        kind = (format or suffix) if what == "write" else what
        if what == "write" and kind not in FORMATS:
            raise ValueError(f"format takes {', '.join(FORMATS)}, not {kind!r}")
        self.plan = Plan(
            kind=self.source.kind,
            ops=self.ops,
            out=kind,
            compression=compression if kind not in ("parquet", "arrow") else "",
            out_delimiter=delimiter_of(name),
            initial=initial,
        )
        self.errors = settings["errors"]
        self.aside: list[str] = []
        self.told: list[str] | None = None  # where what is set aside goes, if somebody else keeps it
        self._inner_aside = 0
        self.state = State()
        self.resumed = self._begun = False
        self._left: Checkpoint | None = None  # of an earlier run, whose output this one takes the place of
        if kind in ("parquet", "arrow"):
            arrow(name)
        self._check_out()
        aside = None if self.errors in ("raise", "skip") else self.errors
        check_apart(self.source.reads(), self.out, aside, self._checkpoint_path(), self.plan.writes_tables)

    def _checkpoint_path(self) -> str | None:
        settings = self.settings
        path: str | None = settings["checkpoint"] or (settings["keep_at"] if settings["keep"] else None)
        if path is None and self.regular and (settings["resume"] or settings["keep"]):
            path = checkpoint_beside(self.out)
        return path

    def _check_out(self) -> None:
        if not self.regular and self.plan.writes_tables:
            raise StreamError(f"{self.plan.out} is written to a file by its name")
        if self.regular and self.out.endswith("/"):
            raise StreamError(f"{self.out} names a folder; name a file in it")

    def _engine(self) -> Engine:
        settings = self.settings
        given, workers = settings["executor"], settings["workers"]
        make: Callable[[], Workers] | None = None
        if given is not None:
            make = functools.partial(given_workers, given, workers)
        elif workers:
            make = functools.partial(own_workers, workers, self.plan)
        return Engine(self.source, self.plan, settings["memory"], make, self.errors == "raise", settings["progress"])

    def _open_checkpoint(self, functions: tuple[Any, ...] = ()) -> Checkpoint:
        resume = self.settings["resume"]
        checkpoint = Checkpoint(self._checkpoint_path())
        ops = (*self.ops, *(("fold", f) for f in functions))
        wanted: dict[str, Any] = {
            "the output": os.path.abspath(self.out) if self.regular else None,
            "the format": self.plan.out,
        }
        options = self.settings["options"]
        for name in ("format", "delimiter", "header", "columns"):
            value = getattr(options, name)
            wanted[name] = list(value) if isinstance(value, tuple) else value
        if isinstance(self.source, Batches):
            wanted["batch"] = self.source.limit
            ops = (*self.source.inner._ops, *ops)
        self._who = identity(self.source.marks(), ops, wanted)
        try:
            old = checkpoint.load() if resume or self.settings["checkpoint"] else None
            if old:
                check_same(old[0], self._who, accept_functions=resume == "changed")
                self.state, self.resumed = old[1], True
            if self.regular:
                self._left = left_beside(self.out, checkpoint.path)
        except BaseException:
            checkpoint.close(remove=False)
            raise
        return checkpoint

    def _begin(self, checkpoint: Checkpoint, sink: Sink | None) -> None:
        """The first chunk is done: only now what an earlier run has left gives way. One that is refused changes nothing."""
        if self._begun:
            return
        if not self.resumed:
            checkpoint.begin(self._who)  # before its output goes: an empty one is never gone on with by mistake
        if self._left:
            self._left.close(remove=True)
        if sink:
            sink.begin()
        self._begun = True

    def records(self) -> Iterator[Any]:
        with contextlib.closing(self.results()) as results:
            for result in results:
                for part in result.parts:
                    yield from part.data

    def results(self) -> Generator[Result, None, None]:
        """For iteration: nothing is kept but what is set aside."""
        self.engine = self._engine()
        checkpoint = Checkpoint(None)
        done = False
        try:
            with contextlib.closing(self.engine.results(self.state)) as results:
                for result in results:
                    self._take(result)
                    self._tell_aside(checkpoint)
                    yield result
                self._take_inner()
            done = True
        finally:
            try:
                self._tell_aside(checkpoint)
                if self.told is None and (done or self.state.begun):
                    self._write_aside(checkpoint)
            finally:
                checkpoint.close(remove=True)

    def _tell_aside(self, checkpoint: Checkpoint) -> None:
        if self.told is not None:
            self.told += self.aside
        elif self.aside and self.errors != "skip":
            checkpoint.save(self.state, self.aside)
        self.aside.clear()

    def _take_inner(self) -> None:
        """What the stream below batches has set aside. A run that goes on has some of it already."""
        if not isinstance(self.source, Batches):
            return
        for line in self.source.aside:
            self._inner_aside += 1
            if self._inner_aside > self.state.inner_aside:
                self.state.inner_aside += 1
                self.state.aside += 1
                self.aside.append(line)
        self.source.aside.clear()

    def _take(self, result: Result) -> None:
        """Counts a chunk in; raises where one of its records failed and that is to stop the stream."""
        name = self.source.names[result.chunk.file]
        if result.bad and self.errors == "raise":
            record, error = result.bad[0]
            raise StreamError(f"record {record} of {name}: {error}")
        self._sound = False  # until it is committed: Ctrl-C may come in between
        self.aside += [aside_line(name, record, error) for record, error in result.bad]
        self._take_inner()
        state = self.state
        state.aside += len(result.bad)
        state.records_in += sum(part.records_in for part in result.parts)
        state.records_out += sum(part.records_out for part in result.parts)
        state.chunks += 1
        state.token, state.position = result.chunk.token, result.chunk.position

    def _run(
        self,
        checkpoint: Checkpoint,
        commit: Callable[[Result], None],
        save: Callable[[], None],
        sink: Sink | None = None,
    ) -> None:
        """All chunks; what is committed when something stops it stays so, if there is a checkpoint."""
        saved = begun = time.monotonic()
        before = self.state.seconds

        def save_now() -> None:
            if checkpoint.path:
                save()
            self.state.seconds = before + time.monotonic() - begun
            checkpoint.save(self.state, self.aside)
            self.aside.clear()

        every = float(os.environ.get("LOWTIDE_STREAM_SAVE_S", _SAVE_EVERY_S))
        try:
            with contextlib.closing(self.engine.results(self.state)) as results:
                for result in results:
                    self._take(result)
                    self._begin(checkpoint, sink)
                    commit(result)
                    result.parts.clear()  # what comes needs the room
                    if checkpoint.path and time.monotonic() - saved >= every:
                        save_now()
                        saved = time.monotonic()
        except BaseException:
            stands = self._begun or (self.state.begin_bytes and (self.resumed or checkpoint.empty))
            if checkpoint.path and self._sound and stands:
                with contextlib.suppress(StreamError):
                    self._begin(checkpoint, sink)
                    save_now()
            raise
        self._begin(checkpoint, sink)
        self._take_inner()
        save_now()

    def write(self) -> Summary:
        checkpoint = self._open_checkpoint()
        done = False
        try:
            self._write(checkpoint)
            self._write_aside(checkpoint)
            done = True
        except BaseException:
            if self._begun and self.state.begun:
                with contextlib.suppress(Exception):
                    self._write_aside(checkpoint)
            raise
        finally:
            checkpoint.close(remove=done)
            if self._left:
                self._left.close(remove=False)
        state = self.state
        return Summary(
            state.records_in,
            state.records_out,
            state.aside,
            state.position,
            state.written if not self.regular else os.path.getsize(self.out),
            state.chunks,
            state.seconds,
            self.engine.peak,
            self.engine.ceiling,
            self.resumed,
        )

    def _sink(self, kept: bool) -> Sink:
        if not isinstance(self.out, str):
            return Sink(str(getattr(self.out, "name", "the output")), self.out)
        if not self.regular:
            try:
                return Sink(self.out, open(self.out, "wb", buffering=0))  # noqa: SIM115
            except OSError as error:
                raise StreamError(f"cannot write {self.out}: {error.strerror}") from None
        if self.plan.out in ("parquet", "arrow"):
            if not kept:
                return DirectTableSink(self.out, self.plan.out)
            return TableSink(self.out, self.state.written, self.state.tail, self.plan.out)
        return FileSink(self.out, self.state.written, self.state.tail)

    def _write(self, checkpoint: Checkpoint) -> None:
        self.engine = self._engine()
        self.engine.state = self.state
        if (
            self.state.whole
            and self.regular
            and os.path.exists(self.out)
            and not os.path.exists(write_beside(self.out))
        ):
            return  # it was killed between its last two steps
        sink = self._sink(kept=checkpoint.path is not None)
        if self.resumed and not sink.resumable:
            raise StreamError(f"{sink.path} cannot be gone on with; write to a file")
        engine = self.engine
        if self.state.fields is not None:
            engine.plan = replace(engine.plan, fields=tuple(self.state.fields))
        self._sound = True

        def commit(result: Result) -> None:
            self._sound = False
            self._commit_header(sink, result)
            for part in result.parts:
                if part.data:
                    sink.write(part.data)
            self.state.written = sink.written
            self._sound = True

        def save() -> None:
            self.state.tail = sink.sync()

        try:
            if not self.state.whole:
                self._run(checkpoint, commit, save, sink)
                self._write_empty(sink)
                if sink.written != self.state.written:
                    self.state.written = sink.written
                    save()
                self.state.whole = True
                checkpoint.save(self.state, [])
            self._begin(checkpoint, sink)
            if isinstance(sink, TableSink) and not self.state.records_out:
                sink.schema = self.source.schema()
            sink.finish()
        except BaseException:
            sink.abandon(keep=checkpoint.path is not None)
            raise

    def _write_empty(self, sink: Sink) -> None:
        """What stands in an output without records: the names of the source's fields, if it has any."""
        plan = self.engine.plan
        if plan.out == "csv" and self.state.fields is None and (names := self.source.fields()):
            sink.write(compress(write_rows([names], plan.out_delimiter), plan.compression))
        elif plan.compression and not sink.written:  # a compressed file of no bytes is a broken one
            sink.write(pack(b"", plan.compression))

    def _commit_header(self, sink: Sink, result: Result) -> None:
        engine = self.engine
        if engine.plan.out != "csv" or self.state.fields is not None:
            return
        engine.learn_fields(result.parts)
        if engine.plan.fields is None:
            return
        self.state.fields = list(engine.plan.fields)
        if engine.plan.fields:
            sink.write(compress(write_rows([engine.plan.fields], engine.plan.out_delimiter), engine.plan.compression))

    def _write_aside(self, checkpoint: Checkpoint) -> None:
        """The whole list anew each time, so that no line is in it twice."""
        if self.errors in ("raise", "skip"):
            return
        regular = not os.path.exists(self.errors) or os.path.isfile(self.errors)
        part = write_beside(self.errors) if regular else self.errors
        try:
            raw = open_part(part, self.errors, wait=True) if regular else io.FileIO(part, "w")
            with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8") as file:
                for line in checkpoint.aside_lines():
                    file.write(line + "\n")
                file.flush()
                if regular:
                    publish(part, self.errors)
        except OSError as error:
            raise StreamError(f"cannot write {self.errors}: {error.strerror}") from None

    def fold(self, f: Callable[[Any, Any], Any], initial: Any, functions: tuple[Any, ...]) -> Any:
        checkpoint = self._open_checkpoint(functions)
        self._sound = True
        so_far = initial

        def commit(result: Result) -> None:
            nonlocal so_far
            self._sound = False
            for part in result.parts:
                if part.data is not None and part.data != b"":
                    so_far = f(so_far, part.data)
            self._sound = True

        def save() -> None:
            self.state.folded = pickle.dumps(so_far).hex()

        done = False
        try:
            self.engine = self._engine()
            if self.state.folded:
                so_far = pickle.loads(bytes.fromhex(self.state.folded))
            self._run(checkpoint, commit, save)
            self._write_aside(checkpoint)
            done = True
        finally:
            checkpoint.close(remove=done)
        return so_far
