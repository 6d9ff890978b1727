"""What runs that are refused, stopped or done leave beside an output, and what they do to what an earlier one left."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lowtide
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EXECUTABLE
from lowtide import _stream_sink
from lowtide._stream_sink import DirectTableSink, FileSink, TableSink, open_part, publish
from lowtide._stream_source import write_beside
from lowtide._stream_state import Checkpoint

JOB = """
def same(line): return line
def other(line): return line
def late(line):
    if line == "15000": raise ValueError(line)
    return line
def early(line): raise ValueError(line)
def wrong(line): return {"a": line} if line > "1" else None
"""
LINES = 20_000  # two chunks: 15000 is in the second


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "in.txt").write_text("".join(f"{i}\n" for i in range(LINES)))
    return tmp_path


def pipe(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EXECUTABLE), "pipe", f"--python={sys.executable}", *words], capture_output=True, text=True
    )


def left() -> dict[str, bytes]:
    """Files beside the input, with what is in them; of the checkpoint what can be gone on with is told by the runs."""
    names = sorted(set(os.listdir()) - {"job.py", "in.txt", "__pycache__"})
    return {name: Path(name).read_bytes() for name in names}


def stopped() -> dict[str, bytes]:
    """Leaves what a run that stopped in its second chunk has done."""
    done = pipe("job:late", "in.txt", "-o", "out.txt")
    assert done.returncode == 1 and "record 15001" in done.stderr
    found = left()
    assert sorted(found) == ["out.txt.checkpoint", "out.txt.part"] and found["out.txt.part"]
    return found


def goes_on() -> bool:
    done = pipe("job:late", "in.txt", "-o", "out.txt", "--resume", "--errors=skip", "--json")
    assert done.returncode == 0, done.stderr
    assert Path("out.txt").read_text().split() == [str(i) for i in range(LINES) if i != 15000]
    assert sorted(left()) == ["out.txt"]
    return '"resumed": true' in done.stdout


REFUSED = {
    "ceiling": ("job:late", "--memory=2M"),
    "ceiling of workers": ("job:late", "--memory=4M", "--workers=2"),
    "function": ("job:missing",),
    "option": ("job:late", "--errors=no/such/folder"),
    "first record": ("job:early",),
    "what a function gives": ("job:wrong",),
    "columns": ("job:late", "--columns=a"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_run_that_is_refused_leaves_nothing(folder: Path, why: str) -> None:
    function, *words = REFUSED[why]
    assert pipe(function, "in.txt", "-o", "out.txt", *words).returncode == 1
    assert left() == {}


@pytest.mark.parametrize("why", REFUSED)
def test_a_run_that_is_refused_leaves_what_an_earlier_one_has_done(folder: Path, why: str) -> None:
    before = stopped()
    function, *words = REFUSED[why]
    assert pipe(function, "in.txt", "-o", "out.txt", *words).returncode == 1
    assert left() == before
    if why in ("ceiling", "ceiling of workers", "option", "columns"):
        assert pipe(function, "in.txt", "-o", "out.txt", "--resume", *words).returncode == 1
        assert left() == before
    assert goes_on()


@pytest.mark.parametrize("words", [("job:other",), ("job:late", "--to=jsonl"), ("job:late", "--format=bytes")])
def test_other_options_of_a_run_that_resumes_are_refused_and_nothing_is_lost(
    folder: Path, words: tuple[str, ...]
) -> None:
    before = stopped()
    function, *more = words
    done = pipe(function, "in.txt", "-o", "out.txt", "--resume", *more)
    assert done.returncode == 1 and done.stderr.endswith("; begin anew without resume\n")
    assert left() == before
    assert goes_on()


def test_a_run_that_begins_anew_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    stopped()
    done = pipe("job:same", "in.txt", "-o", "out.txt", "--json")
    assert done.returncode == 0 and '"resumed": false' in done.stdout
    assert left() == {"out.txt": Path("in.txt").read_bytes()}


def test_a_run_without_a_checkpoint_takes_the_place_of_one_that_had_one(folder: Path) -> None:
    before = stopped()
    with pytest.raises(lowtide.StreamError, match="too low"):
        lowtide.stream("in.txt", "1MiB").write("out.txt")
    assert left() == before
    lowtide.stream("in.txt").write("out.txt")
    assert left() == {"out.txt": Path("in.txt").read_bytes()}


def test_a_file_of_somebody_else_that_is_called_a_checkpoint_stays(folder: Path) -> None:
    for data in (b"", b"mine\n"):
        Path("out.txt.checkpoint").write_bytes(data)
        lowtide.stream("in.txt").write("out.txt")
        assert left() == {"out.txt": Path("in.txt").read_bytes(), "out.txt.checkpoint": data}


@pytest.mark.parametrize("change", ["gone", "short", "another's"])
def test_an_unfinished_output_that_is_not_what_was_written_is_not_gone_on_with(folder: Path, change: str) -> None:
    part = Path("out.txt.part")
    data = stopped()["out.txt.part"]
    if change == "gone":
        part.unlink()
    else:
        part.write_bytes(data[:-1] if change == "short" else b"x" * (len(data) + 7))
    before = left()
    done = pipe("job:late", "in.txt", "-o", "out.txt", "--resume", "--errors=skip")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "out.txt.part is not what the stopped run had written to it; begin anew without resume\n"
    )
    assert left() == before


@pytest.mark.parametrize("other", [True, False], ids=["another's", "gone"])
def test_an_unfinished_output_that_goes_after_it_was_looked_at_is_not_gone_on_with(folder: Path, other: bool) -> None:
    part, aside = Path("out.txt.part"), Path("aside")

    def do(line: str) -> str:
        if line == "15000" and run == 1:
            raise ValueError(line)
        if run == 2 and not aside.exists():
            part.rename(aside)
            if other:
                part.write_bytes(b"theirs")
        return line

    run = 1
    stream = lowtide.stream("in.txt", resume=True).map(do)
    with pytest.raises(lowtide.StreamError, match="ValueError"):
        stream.write("out.txt")
    run = 2
    with pytest.raises(lowtide.StreamError, match="out.txt.part is not what the stopped run had written to it"):
        stream.write("out.txt")
    assert [name for name in left() if name in ("out.txt", "out.txt.part")] == ["out.txt.part"] * other
    assert not other or part.read_bytes() == b"theirs"
    run = 3
    aside.rename(part)
    stream.write("out.txt")
    assert left() == {"out.txt": Path("in.txt").read_bytes()}


def test_a_fold_that_is_refused_leaves_what_an_earlier_one_has_done(folder: Path) -> None:
    def add(so_far: int, line: str) -> int:
        if line == "15000" and stop:
            raise KeyboardInterrupt
        return so_far + int(line)

    stop = True
    with pytest.raises(lowtide.StreamError, match="too low"):
        lowtide.stream("in.txt", "1MiB", checkpoint="sum").reduce(add, 0)
    assert left() == {}
    with pytest.raises(KeyboardInterrupt):
        lowtide.stream("in.txt", checkpoint="sum").reduce(add, 0)
    before = left()
    assert list(before) == ["sum"]
    with pytest.raises(lowtide.StreamError, match="too low"):
        lowtide.stream("in.txt", "1MiB", checkpoint="sum").reduce(add, 0)
    assert left() == before
    stop = False
    assert lowtide.stream("in.txt", checkpoint="sum").reduce(add, 0) == sum(range(LINES))
    assert left() == {}


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_to_an_output_that_another_one_writes_is_refused_and_takes_nothing_out(
    folder: Path, resume: bool
) -> None:
    def begin_another(line: str) -> str:
        if line == "15000":
            for options in ({}, {"resume": True}, {"checkpoint": "elsewhere"}):
                with pytest.raises(
                    lowtide.StreamError, match=r"another run is (writing|using) .*out\.txt.*; let it end"
                ):
                    lowtide.stream("in.txt", **options).write("out.txt")  # type: ignore[arg-type]
        return line

    assert lowtide.stream("in.txt", resume=resume).map(begin_another).write("out.txt").records_in == LINES
    assert left() == {"out.txt": Path("in.txt").read_bytes()}


KINDS = {
    "text": lambda: FileSink("out", 0),
    "kept": lambda: TableSink("out", 0, "", "parquet"),
    "parquet": lambda: DirectTableSink("out", "parquet"),
    "arrow": lambda: DirectTableSink("out", "arrow"),
}


def write_first(sink: FileSink) -> None:
    sink.begin()
    sink.write(pa.table({"a": ["first"]}) if isinstance(sink, TableSink) else b"first")


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_gets_its_name_from_its_own_run_whoever_begins_in_that_moment(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, publish = KINDS[kind](), _stream_sink.publish
    early = KINDS[kind]()  # nothing was there to be seen when it was made

    def late(part: str, path: str) -> None:
        for begin in (early.begin, KINDS[kind]):
            with pytest.raises(lowtide.StreamError, match="another run is writing out; let it end"):
                begin()
        publish(part, path)

    monkeypatch.setattr(_stream_sink, "publish", late)
    write_first(first)
    first.finish()
    assert list(left()) == ["out"] and b"first" in Path("out").read_bytes()
    early.begin()
    early.abandon(keep=False)
    assert list(left()) == ["out"]


def test_an_unfinished_output_that_somebody_takes_out_is_not_published(folder: Path) -> None:
    for kind in KINDS:
        sink = KINDS[kind]()
        write_first(sink)
        os.rename("out.part", "theirs")
        Path("out.part").write_bytes(b"theirs")
        with pytest.raises(lowtide.StreamError, match="another run has written out meanwhile"):
            sink.finish()
        sink.abandon(keep=False)
        assert "out" not in left() and Path("out.part").read_bytes() == b"theirs"


def test_a_child_that_outlives_its_killed_run_keeps_no_other_one_out(folder: Path) -> None:
    code = """
import os, signal, sys
import lowtide
def stop(line):
    if line == "15000":
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, b".")
            sys.stdin.read()
            os._exit(0)
        os.read(reader, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return line
lowtide.stream("in.txt").map(stop).write("out.txt")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as killed:
        assert killed.wait() == -signal.SIGKILL
        assert list(left()) == ["out.txt.part"]
        lowtide.stream("in.txt").write("out.txt")
    assert left() == {"out.txt": Path("in.txt").read_bytes()}


def test_a_checkpoint_is_never_one_that_the_run_before_takes_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, connect, remove = Checkpoint("kept"), sqlite3.connect, os.remove

    def connect_late(*words: Any, **more: Any) -> sqlite3.Connection:
        found = connect(*words, **more)
        first.close(remove=True)  # what was found is no more
        monkeypatch.setattr(sqlite3, "connect", connect)
        return found

    def remove_late(name: str) -> None:
        with pytest.raises(lowtide.StreamError, match="another run is using kept"):
            Checkpoint("kept")
        remove(name)

    first.begin({})
    monkeypatch.setattr(sqlite3, "connect", connect_late)
    second = Checkpoint("kept")
    assert second.empty and "kept" in left()
    second.begin({})
    monkeypatch.setattr(os, "remove", remove_late)
    second.close(remove=True)
    assert left() == {}


def test_a_checkpoint_on_a_file_system_without_lasting_inode_numbers_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, looks = itertools.count(), 1000
    monkeypatch.setattr(Checkpoint, "_inode", lambda _: (1, next(numbers)))
    opened = Checkpoint._open

    def watched(kept: Checkpoint, path: str | None) -> bool:
        assert next(numbers) < looks, "it goes on without an end"
        return opened(kept, path)

    monkeypatch.setattr(Checkpoint, "_open", watched)
    with pytest.raises(lowtide.StreamError) as error:
        Checkpoint("kept")
    assert str(error.value) == (
        "cannot keep kept: it is another file each time that one looks at it; name a checkpoint on another file system"
    )


def test_of_runs_that_begin_at_once_one_has_the_checkpoint(folder: Path) -> None:
    together = threading.Barrier(3)

    def begin(_: int) -> bool:
        together.wait()
        has = None
        with contextlib.suppress(lowtide.StreamError):
            has = Checkpoint("kept")
        together.wait()
        if has:
            has.close(remove=True)
        return has is not None

    with ThreadPoolExecutor(3) as threads:
        for _ in range(5):
            assert sum(threads.map(begin, range(3))) == 1
    assert left() == {}


def test_a_run_that_is_refused_leaves_the_list_of_what_another_one_set_aside(folder: Path) -> None:
    lowtide.stream("in.txt", errors="aside").map(lambda line: 1 // (line != "7")).write("out.jsonl")
    before = Path("aside").read_bytes()
    theirs: list[Any] = []

    def late(line: str) -> str:
        if not theirs:
            theirs.append(open_part(write_beside("out.txt"), "out.txt"))
        return line

    with pytest.raises(lowtide.StreamError, match="another run is writing out.txt; let it end"):
        lowtide.stream("in.txt", errors="aside").map(late).write("out.txt")
    assert before and Path("aside").read_bytes() == before


def test_two_runs_that_set_aside_to_one_file_leave_the_whole_list_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, waits, lock = write_beside("aside"), threading.Event(), fcntl.flock
    busy = open_part(part, "aside")

    def lock_late(file: Any, how: int) -> None:
        if not how & fcntl.LOCK_NB:
            waits.set()
        lock(file, how)

    def publish_late() -> None:
        busy.write(b"theirs\n")
        waits.wait()
        publish(part, "aside")
        busy.close()

    monkeypatch.setattr(fcntl, "flock", lock_late)
    other = threading.Thread(target=publish_late)
    other.start()
    lowtide.stream("in.txt", errors="aside").map(lambda line: 1 // (line != "7")).write("out.jsonl")
    other.join()
    assert Path("aside").read_text().count('"record": 8,') == 1
    assert sorted(left()) == ["aside", "out.jsonl"]


HEADERS = {"header": b"a,b\n", "without newline": b"a,b", "mark": b"\xef\xbb\xbfa,b\r\n", "quoted": b'"a",b\n'}


@pytest.mark.parametrize(("header", "workers"), [*((header, 0) for header in HEADERS), ("header", 2)])
def test_a_csv_of_only_a_header_gives_its_header(folder: Path, header: str, workers: int) -> None:
    for name, data in (("1.csv", b""), ("2.csv", HEADERS[header]), ("3.csv", b"a,b\n")):
        Path(name).write_bytes(data)
    Path("2.csv.gz").write_bytes(gzip.compress(HEADERS[header]))
    for source in ("2.csv", "2.csv.gz", "?.csv"):
        stream = lowtide.stream(source, "1GiB", workers=workers).map(dict)
        for out, wanted in (("out.csv", b"a,b\n"), ("out.tsv", b"a\tb\n"), ("out.jsonl", b""), ("out.txt", b"")):
            assert stream.write(out).records_out == 0
            assert Path(out).read_bytes() == wanted
        stream.write("out.csv.gz")
        assert gzip.decompress(Path("out.csv.gz").read_bytes()) == b"a,b\n"
        for out in ("out.parquet", "out.arrow"):
            stream.write(out)
            assert lowtide.stream(out).write("again.csv").records_in == 0
            assert Path("again.csv").read_bytes() == b"a,b\n"


def test_headers_alone_beside_files_with_rows_add_nothing(folder: Path) -> None:
    Path("1.csv").write_text("a,b\n")
    Path("2.csv").write_text("a,b\n1,2\n")
    Path("3.csv").write_text("a,b\n")
    lowtide.stream("?.csv").map(lambda row: {"sum": int(row["a"]) + int(row["b"])}).write("out.csv")
    assert Path("out.csv").read_text() == "sum\n3\n"
    lowtide.stream("?.csv").filter(lambda row: False).write("out.csv")
    assert Path("out.csv").read_text() == "a,b\n"
    lowtide.stream("?.csv", header=False).filter(lambda row: False).write("out.csv")
    assert Path("out.csv").read_text() == ""
    with open("1.csv", "rb") as file:
        lowtide.stream(file, format="csv").write("out.csv")
    assert Path("out.csv").read_text() == "a,b\n"


def test_an_empty_csv_gives_an_empty_file(folder: Path) -> None:
    Path("empty.csv").write_bytes(b"")
    for out in ("out.csv", "out.jsonl"):
        assert lowtide.stream("empty.csv").write(out).records_in == 0
        assert Path(out).read_bytes() == b""
    lowtide.stream("empty.csv").write("out.parquet")
    assert list(lowtide.stream("out.parquet")) == []


def test_a_header_alone_comes_out_of_pipe_and_where_a_stopped_run_goes_on(folder: Path) -> None:
    Path("in.csv").write_text("a,b\n")
    assert pipe("job:same", "in.csv", "-o", "out.csv").returncode == 0
    assert Path("out.csv").read_text() == "a,b\n"
    assert pipe("job:same", "in.csv", "-o", "-", "--to=csv").stdout == "a,b\n"
    Path("in.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(LINES)))
    stop = True

    def nothing(row: dict[str, str]) -> bool:
        if row["a"] == "15000" and stop:
            raise KeyboardInterrupt
        return False

    stream = lowtide.stream("in.csv", resume=True).filter(nothing)
    with pytest.raises(KeyboardInterrupt):
        stream.write("out.csv")
    stop = False
    assert stream.write("out.csv").resumed
    assert Path("out.csv").read_text() == "a\n"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("resume", [False, True])
def test_tables_without_rows_keep_their_columns_and_types(folder: Path, suffix: str, resume: bool) -> None:
    table = pa.table({"a": pa.array([1, 2], pa.int16()), "b": ["x", "y"]})
    lowtide.stream([{"a": 1}]).map_chunks(lambda _: table).write(f"in.{suffix}")
    stream = lowtide.stream(f"in.{suffix}", resume=resume)
    stream.map_chunks(lambda table: table.select(["b"]).slice(0, 0)).write("out.parquet")
    assert pq.read_schema("out.parquet") == pa.schema({"b": pa.string()})
    stream.filter(lambda row: False).write("out.parquet")
    assert pq.read_schema("out.parquet") == table.schema
    lowtide.stream(f"in.{suffix}", columns=["b"]).filter(lambda row: False).write("out.arrow")
    assert pa.ipc.open_file("out.arrow").schema == pa.schema({"b": pa.string()})


def test_tables_that_fail_on_the_way_leave_nothing(folder: Path) -> None:
    def fail(line: str) -> dict[str, str]:
        if line == "19000":
            raise ValueError(line)
        return {"a": line}

    with pytest.raises(lowtide.StreamError, match="record 19001"):
        lowtide.stream("in.txt").map(fail).write("out.parquet")
    assert left() == {}
