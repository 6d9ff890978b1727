"""Options of lowtide.stream and lowtide pipe, and sources of several files, as a user gives them."""

from __future__ import annotations

import bz2
import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lowtide
import pyarrow.parquet as pq
import pytest
from conftest import EXECUTABLE

JOB = """
import os, time
def same(record): return record
def second(row): return [row[1]]
def add(row): return {**row, "c": row["a"] + row["b"]}
def wait(line):
    if line == "c500" and not os.path.exists("go"):
        open("here", "w").close()
        time.sleep(600)
    return line
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "in.csv").write_text('a;b\n1;x,y\n2;"z;"\n')
    return tmp_path


def command(*words: str) -> list[str]:
    return [str(EXECUTABLE), "pipe", f"--python={sys.executable}", *words]


def pipe(*words: str) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pipe_reads_and_writes_what_its_options_say(folder: Path) -> None:
    assert pipe("job:add", "in.csv", "-o", "-", "--delimiter=;", "--to=jsonl") == (
        '{"a": "1", "b": "x,y", "c": "1x,y"}\n{"a": "2", "b": "z;", "c": "2z;"}\n'
    )
    assert pipe("job:second", "in.csv", "-o", "-", "--delimiter", ";", "--no-header", "--to", "csv") == 'b\n"x,y"\nz;\n'
    assert pipe("job:same", "in.csv", "-o", "-", "--format=text") == (folder / "in.csv").read_text()
    assert pipe("job:same", "in.csv", "-o", "-", "--format=bytes", "--to=bytes") == (folder / "in.csv").read_text()
    pipe("job:add", "in.csv", "-o", "out", "--delimiter=;", "--to=parquet")
    assert pq.read_table("out")["c"].to_pylist() == ["1x,y", "2z;"]
    assert pipe("job:same", "out", "-o", "-", "--format=parquet", "--columns=c", "--to=csv") == 'c\n"1x,y"\n2z;\n'


def test_bytes_are_lines_of_any_encoding(folder: Path) -> None:
    (folder / "in.txt").write_bytes(b"caf\xe9\n\xff\xfe\nlast")
    stream = lowtide.stream("in.txt", format="bytes")
    assert list(stream) == [b"caf\xe9", b"\xff\xfe", b"last"]
    stream.map(bytes.upper).write("out.txt", format="bytes")
    assert (folder / "out.txt").read_bytes() == b"CAF\xe9\n\xff\xfe\nLAST\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_is_told_of_the_progress(folder: Path, workers: int) -> None:
    (folder / "in.txt").write_text("".join(f"{i}\n" for i in range(100_000)))
    seen: list[lowtide._stream.Progress] = []
    stream = lowtide.stream("in.txt", "1GiB", workers=workers, progress=seen.append)
    summary = stream.filter(str.isdigit).write("out.txt")
    positions = [now.position_bytes for now in seen]
    assert positions == sorted(positions) and positions[-1] == (folder / "in.txt").stat().st_size
    last = seen[-1]
    assert (last.records_in, last.records_out, last.aside) == (summary.records_in, summary.records_out, 0)
    assert (last.total_bytes, last.ceiling_bytes) == (positions[-1], 1 << 30)
    assert 0 < last.memory_bytes <= last.peak_bytes <= 1 << 30


def several(folder: Path) -> str:
    """Sources a, b, c of a thousand lines each, of which two are compressed; their text."""
    texts = {name: "".join(f"{name}{i}\n" for i in range(1000)).encode() for name in "abc"}
    (folder / "a.log").write_bytes(texts["a"])
    (folder / "b.log.gz").write_bytes(gzip.compress(texts["b"]))
    (folder / "c.log.bz2").write_bytes(bz2.compress(texts["c"]))
    return b"".join(texts.values()).decode()


def test_several_inputs_and_quoted_patterns_are_read_in_their_order(folder: Path) -> None:
    text = several(folder)
    assert pipe("job:same", "a.log", "b.log.gz", "c.log.bz2", "-o", "-") == text
    assert pipe("job:same", "*.log*", "-o", "-", "--workers=2") == text
    assert pipe("job:same", "c.*", "a.log", "-o", "-").startswith("c0\nc1\n")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_within_the_last_of_several_inputs_it_goes_on_there(folder: Path, workers: str) -> None:
    text = several(folder)
    words = command("job:wait", "*.log*", "-o", "out.txt", f"--workers={workers}", "--resume")
    more: dict[str, Any] = {"env": {**os.environ, "LOWTIDE_STREAM_SAVE_S": "0"}}
    with subprocess.Popen(words, start_new_session=True, **more) as process:
        while not (folder / "here").exists():
            assert process.poll() is None
            time.sleep(0.01)
        while "b" not in (kept := (folder / "out.txt.part").read_text()):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert text.startswith(kept)
    (folder / "go").touch()
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True, **more)
    assert '"records_in": 3000, "records_out": 3000' in done.stdout and '"resumed": true' in done.stdout
    assert (folder / "out.txt").read_text() == text


def test_what_iteration_sets_aside_is_in_its_file_too(folder: Path) -> None:
    (folder / "in.txt").write_text("1\nx\n3\n")
    assert list(lowtide.stream("in.txt", errors="bad.jsonl").map(int)) == [1, 3]
    assert [bad["record"] for bad in lowtide.stream("bad.jsonl")] == [2]
    early = iter(lowtide.stream("in.txt", errors="bad.jsonl"))
    assert next(early) == "1"
    early.close()  # type: ignore[attr-defined]
    assert list(lowtide.stream("bad.jsonl")) == []


def test_a_name_that_is_no_utf8_is_set_aside_as_it_is(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_text("x\n")
    summary = lowtide.stream(name, errors="bad.jsonl").map(int).write("out.txt")
    assert summary.aside == 1
    assert [bad["file"] for bad in lowtide.stream("bad.jsonl")] == [name]


def test_what_fails_below_batches_is_set_aside_once_even_if_it_is_killed(folder: Path) -> None:
    (folder / "in.txt").write_text("".join(f"{i}\n" if i % 1000 else "x\n" for i in range(20_000)))
    armed = [True]

    def total(batch: list[int]) -> str:
        if armed and batch[0] > 15_000:
            armed.clear()
            raise KeyboardInterrupt
        return str(sum(batch))

    stream = lowtide.stream("in.txt", errors="bad.jsonl", resume=True).map(int).batch(7).map(total)
    with pytest.raises(KeyboardInterrupt):
        stream.write("out.txt")
    summary = stream.write("out.txt")
    assert summary.resumed and summary.aside == 20
    assert [bad["record"] for bad in lowtide.stream("bad.jsonl")] == list(range(1, 20_000, 1000))
    assert sum(map(int, lowtide.stream("out.txt"))) == sum(i for i in range(20_000) if i % 1000)
