"""What a stream refuses before it begins: names that would be written over, columns that are not there, wrong words."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import lowtide
import pandas
import pyarrow as pa
import pytest
from conftest import EXECUTABLE
from lowtide._stream_tables import read_tables


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text("def same(line): return line\ndef fail(line): raise ValueError(line)\n")
    (tmp_path / "in.txt").write_text("a\nb\n")
    (tmp_path / "in.txt.part").write_text("a part\n")
    (tmp_path / "out.txt").write_text("before\n")
    (tmp_path / "link").symlink_to("in.txt")
    (tmp_path / "e.txt.part").symlink_to("in.txt")
    (tmp_path / "c-journal").symlink_to("in.txt")
    return tmp_path


def pipe(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EXECUTABLE), "pipe", f"--python={sys.executable}", *words], capture_output=True, text=True, **more
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("in.txt -o in.txt", "in.txt is read and written; write to another name"),
        ("in.txt -o link", "link is read and written; "),
        ("in.txt -o out.txt --errors in.txt", "in.txt is read and takes what is set aside; "),
        ("in.txt -o out.txt --errors link", "link is read and takes what is set aside; "),
        ("in.txt -o out.txt --errors ./e.txt", "./e.txt.part is read and takes what is set aside, on the way to "),
        ("in.txt -o out.txt --errors out.txt", "out.txt is written and takes what is set aside; "),
        ("in.txt -o out.txt --errors out.txt.part", "out.txt.part is written and takes what is set aside; "),
        ("in.txt -o out.txt --errors out.txt.checkpoint", "out.txt.checkpoint takes the checkpoint and takes what "),
        ("in.txt -o out.txt --checkpoint out.txt", "out.txt is written and takes the checkpoint; "),
        ("in.txt -o out.txt --checkpoint in.txt --resume", "in.txt is read and takes the checkpoint; "),
        ("in.txt -o out.txt --checkpoint c", "c-journal is read and takes the checkpoint, on the way to c; "),
        ("in.txt -o out.txt --checkpoint x --errors x", "x takes the checkpoint and takes what is set aside; "),
        ("in.txt.part -o in.txt", "in.txt.part is read and written, on the way to in.txt; write to another name"),
        ("in.txt -o out.txt --checkpoint job.py", "job.py is no checkpoint; name another"),
        ("in.txt -o out.txt --checkpoint /dev/null", "/dev/null is no regular file; name one for a checkpoint"),
        ("in.txt -o out.txt --errors .", ". names a folder; name a file in it for what is set aside"),
        ("in.txt -o out.txt --errors no/e.txt", "cannot keep no/e.txt: the folder "),
    ],
)
def test_what_would_write_over_something_of_the_run_is_refused_and_nothing_is_touched(
    folder: Path, words: str, line: str
) -> None:
    before = contents(folder)
    done = pipe("job:same", *words.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"lowtide: {line}") and done.stderr.count("\n") == 1
    assert contents(folder) == before


def test_what_is_read_and_written_through_the_shell_is_refused_too(folder: Path) -> None:
    with open("in.txt") as source:
        done = pipe("job:same", "-", "-o", "-", "--errors=in.txt", stdin=source)
    assert done.returncode == 1 and "in.txt is read and takes what is set aside" in done.stderr
    assert (folder / "in.txt").read_text() == "a\nb\n"


def test_a_program_s_own_names_are_kept_apart_too(folder: Path) -> None:
    with pytest.raises(lowtide.StreamError, match=r"in.txt is read and takes what is set aside"):
        lowtide.stream("in.txt", errors="in.txt").write("out.txt")
    with pytest.raises(lowtide.StreamError, match=r"in.txt is read and takes the checkpoint"):
        lowtide.stream("in.txt", checkpoint="in.txt").reduce(lambda so_far, line: line, "")
    with pytest.raises(lowtide.StreamError, match=r"in.txt is read and written"):
        lowtide.stream("in.*").batch(2).map(str).write("in.txt")
    assert (folder / "in.txt").read_text() == "a\nb\n"


def test_a_database_of_somebody_else_is_no_checkpoint(folder: Path) -> None:
    with sqlite3.connect("theirs.db") as theirs:
        theirs.execute("CREATE TABLE people (name TEXT)")
    theirs.close()
    before = contents(folder)
    with pytest.raises(lowtide.StreamError, match=r"theirs.db is a database of something else; name another"):
        lowtide.stream("in.txt", checkpoint="theirs.db").write("out.txt")
    assert contents(folder) == before


def test_what_is_set_aside_may_go_to_what_is_no_file(folder: Path) -> None:
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    done = pipe("job:fail", "in.txt", "-o", "out.txt", "--errors=fifo")
    assert done.returncode == 0, done.stderr
    assert os.read(reader, 1 << 16).count(b"ValueError") == 2
    os.close(reader)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("workers", [0, 1])
def test_columns_are_those_that_are_there(folder: Path, suffix: str, workers: int) -> None:
    rows = [{"a": i, "b": str(i), "c": {"d": i}} for i in range(3000)]
    lowtide.stream(rows).write(f"in.{suffix}")
    read = lowtide.stream(f"in.{suffix}", "1GiB", workers=workers, columns=["b", "a"])
    assert list(read) == [{"b": str(i), "a": i} for i in range(3000)]
    for columns in (["zz"], ["a", "zz"], [""]):
        with pytest.raises(lowtide.StreamError, match=rf"^in.{suffix} has no column {columns[-1]}; it has a, b, c$"):
            lowtide.stream(f"in.{suffix}", "1GiB", workers=workers, columns=columns).write("out.jsonl")
    with pytest.raises(TypeError, match="columns takes a list of names, not 'ab'"):
        lowtide.stream(f"in.{suffix}", columns="ab")
    assert not list(folder.glob("out.jsonl*"))


def test_columns_of_the_command_line_are_those_that_are_there(folder: Path) -> None:
    lowtide.stream([{"a": i, "b": -i} for i in range(3)]).write("in.parquet")
    assert pipe("job:same", "in.parquet", "-o", "out.csv", "--columns=b").returncode == 0
    assert (folder / "out.csv").read_text() == "b\n0\n-1\n-2\n"
    done = pipe("job:same", "in.parquet", "-o", "out.csv", "--columns=b,zz")
    assert (done.returncode, done.stderr) == (1, "lowtide: in.parquet has no column zz; it has a, b\n")
    done = pipe("job:same", "in.txt", "-o", "out.csv", "--columns=b")
    assert done.returncode == 1 and "in.txt is text: columns are chosen of Parquet and Arrow alone" in done.stderr


def test_a_table_without_columns_has_no_more_rows_than_it_has(folder: Path) -> None:
    with pa.OSFile("in.arrow", "wb") as file, pa.ipc.new_file(file, pa.schema([])) as writer:
        writer.write_batch(pa.RecordBatch.from_struct_array(pa.array([{}] * 5, pa.struct([]))))
    seen = sum(part.num_rows for part, _ in read_tables("in.arrow", "arrow", 0, None, lambda: (1 << 20, 1 << 20)))
    assert seen == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_each_file_has_the_delimiter_of_its_own_suffix(folder: Path, workers: int) -> None:
    (folder / "1.csv").write_text('x,y\n1,"a,b"\n')
    (folder / "2.tsv").write_text("x\ty\n2\tc,d\n")
    (folder / "3.tsv.bak.csv").write_text("x,y\n3,e\tf\n")
    with gzip.open("4.tsv.gz", "wt") as file:
        file.write('x\ty\n4\t"g\th"\n')
    files = ["1.csv", "2.tsv", "3.tsv.bak.csv", "4.tsv.gz"]
    rows = [{"x": str(i), "y": y} for i, y in enumerate(("a,b", "c,d", "e\tf", "g\th"), 1)]
    assert list(lowtide.stream(files, "1GiB", workers=workers)) == rows
    assert list(lowtide.stream(files, "1GiB", workers=workers, header=False))[5] == ["3", "e\tf"]
    lowtide.stream(files).write("out.tsv.gz")
    with gzip.open("out.tsv.gz", "rt") as file:
        assert file.read() == 'x\ty\n1\ta,b\n2\tc,d\n3\t"e\tf"\n4\t"g\th"\n'


def test_a_delimiter_that_is_given_serves_all_files(folder: Path) -> None:
    (folder / "1.csv").write_text("x;y\n1;a,b\n")
    (folder / "2.tsv").write_text("x;y\n2;c\td\n")
    wanted = [{"x": "1", "y": "a,b"}, {"x": "2", "y": "c\td"}]
    assert list(lowtide.stream(["1.csv", "2.tsv"], delimiter=";")) == wanted
    (folder / "3.csv").write_text("x\ty\n3\te,f\n")
    assert pipe("job:same", "3.csv", "-o", "out.jsonl", r"--delimiter=\t").returncode == 0
    assert list(lowtide.stream("out.jsonl")) == [{"x": "3", "y": "e,f"}]
    for wrong in (";;", "", '"', "\n", "\u00e9"):
        with pytest.raises(ValueError, match="delimiter takes one ASCII character"):
            lowtide.stream("1.csv", delimiter=wrong)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--workers=lots", "--workers: takes 0 or more, not 'lots'"),
        ("--workers=-1", "--workers: takes 0 or more, not '-1'"),
        ("--workers=", "--workers: takes 0 or more, not ''"),
        ("--format=xml", "format takes text, bytes, csv, jsonl, parquet, arrow, not 'xml'"),
        ("--to=xml", "format takes text, bytes, csv, jsonl, parquet, arrow, not 'xml'"),
        ("--delimiter=ab", "delimiter takes one ASCII character, such as ';', not 'ab'"),
        ("--resume=maybe", "--resume takes nothing or changed, not 'maybe'"),
        ("--memory=0", "memory must be above zero, not 0"),
        ("--errors=", "errors takes raise, skip or a path"),
    ],
)
def test_a_word_that_pipe_does_not_take_is_one_line_and_status_2(folder: Path, words: str, line: str) -> None:
    done = pipe("job:same", "in.txt", "-o", "out.jsonl", *words.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"lowtide: {line}; see `lowtide pipe --help`\n")


def test_a_python_that_has_no_lowtide_is_one_line_with_the_mend(folder: Path) -> None:
    bare = folder / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    done = pipe("job:same", "in.txt", "-o", "out.jsonl", f"--python={bare}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "has no lowtide, or not this one; name a Python that has it with --python" in done.stderr


def test_a_program_s_own_mistakes_are_told_at_once(folder: Path) -> None:
    with pytest.raises(TypeError, match="a stream reads paths or an iterable, not int"):
        lowtide.stream(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"executor takes a concurrent.futures.Executor or a Dask client, not int"):
        lowtide.stream("in.txt", workers=2, executor=1)
    for wrong in ("2", 1.5, -1):
        with pytest.raises(ValueError, match="workers takes 0 or more, not "):
            lowtide.stream("in.txt", workers=wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="progress takes True, False or a function, not int"):
        lowtide.stream("in.txt", progress=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="columns takes at least one name"):
        lowtide.stream("in.txt", columns=[])
    for source in (iter([{"a": 1}]), io.BytesIO(b"a\n")):
        with pytest.raises(lowtide.StreamError, match="columns are chosen of Parquet and Arrow alone"):
            list(lowtide.stream(source, columns=["a"]))


def test_numbers_and_columns_of_other_libraries_are_taken(folder: Path) -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    class Names(list[str]):
        def __bool__(self) -> bool:
            raise ValueError("the truth of an index is ambiguous")

    assert list(lowtide.stream("in.txt", "1GiB", workers=Three(), progress=None)) == ["a", "b"]  # type: ignore[call-overload]
    lowtide.stream([{"a": 1, "b": 2}]).write("in.arrow")
    assert list(lowtide.stream("in.arrow", "1GiB", columns=Names(["b"]))) == [{"b": 2}]


def test_a_list_of_text_that_was_meant_as_records_is_told_how_to_be_them(tmp_path: Path) -> None:
    with pytest.raises(
        lowtide.StreamError, match=r"^a is not there; look at its name, or hand over iter\(…\) of a list"
    ):
        lowtide.stream(["a", "b"]).write(tmp_path / "out.txt")


def test_what_is_no_source_or_no_function_of_records_is_told_at_once(folder: Path) -> None:
    async def fetch(line: str) -> str:
        return line

    with pytest.raises(TypeError, match="fetch is async, and nothing would await it"):
        lowtide.stream("in.txt").map(fetch)
    with pytest.raises(TypeError, match=r"not bytes; hand over io.BytesIO of it, or its name as str"):
        lowtide.stream(b"in.txt")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"not DataFrame; hand over its records, such as to_dict\('records'\)"):
        lowtide.stream(pandas.DataFrame({"a": [1]}))


def test_an_error_is_told_with_the_line_of_the_user_s_own_that_led_to_it(folder: Path) -> None:
    (folder / "job.py").write_text(
        "import json\ndef parse(line):\n    return json.loads(line)\ndef same(line): return line\n"
    )
    done = pipe("job:parse", "in.txt", "-o", "out.jsonl")
    assert done.stderr.endswith("JSONDecodeError: Expecting value: line 1 column 1 (char 0) (job.py:3)\n")
    (folder / "in.jsonl").write_text("{\n")
    done = pipe("job:same", "in.jsonl", "-o", "out.jsonl")
    assert "JSONDecodeError: " in done.stderr and ".py:" not in done.stderr  # no line of his
    done = pipe("job:same", "acces.txt", "-o", "out.txt")
    assert done.stderr == "lowtide: acces.txt is not there; look at its name\n"


def test_a_function_of_chunks_may_give_data_frames(folder: Path) -> None:
    lowtide.stream([{"a": i, "b": str(i)} for i in range(5000)]).write("in.parquet")
    stream = lowtide.stream("in.parquet").map_chunks(lambda table: table.to_pandas().query("a % 2 == 1"))
    for out in ("out.parquet", "out.jsonl"):
        assert stream.write(out).records_out == 2500
        assert list(lowtide.stream(out)) == [{"a": i, "b": str(i)} for i in range(1, 5000, 2)]
    rows = lowtide.stream("in.parquet").map_chunks(lambda table: pandas.DataFrame({"n": [len(table)]}))
    assert sum(row["n"] for row in rows) == 5000
