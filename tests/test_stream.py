"""lowtide.stream: each format in and out, the ceiling, what fails, and executors."""

from __future__ import annotations

import bz2
import concurrent.futures
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lowtide
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lowtide import _stream_files, _stream_memory, _stream_source
from lowtide._keep import stream_cut


def upper(line: str) -> str:
    return line.upper()


def twice(line: str) -> Any:
    yield line
    yield line


def fail_at_seven(line: str) -> str:
    if line == "7":
        raise ValueError("seven")
    return line


def die_at_seven(line: str) -> str:
    if line == "7":
        os._exit(9)
    return line


def hoard_at_seven(line: str) -> str:
    if line == "7":
        return line * (400 << 20)
    return line


def is_odd(row: dict[str, int]) -> bool:
    return row["a"] % 2 == 1


def count_rows(rows: list[Any]) -> list[Any]:
    return [{"rows": len(rows)}]


def lines_file(path: Path, count: int) -> Path:
    path.write_text("".join(f"{i}\n" for i in range(count)))
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_lines_come_out_in_their_order(tmp_path: Path, workers: int) -> None:
    source = lines_file(tmp_path / "in.txt", 50_000)
    summary = lowtide.stream(source, "1GiB", workers=workers).map(upper).write(tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_bytes() == source.read_bytes()
    assert (summary.records_in, summary.records_out, summary.aside) == (50_000, 50_000, 0)
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out.txt"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)), st.booleans()
)
def test_any_lines_are_read_as_python_reads_them(tmp_path_factory: Any, lines: list[str], ended: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "in.txt"
    path.write_text("\n".join(lines) + ("\n" if ended else ""), encoding="utf-8", newline="")
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        assert list(lowtide.stream(path)) == [line.removesuffix("\n") for line in file]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.text('ab",\n ', max_size=6), min_size=1, max_size=3)), st.integers(1, 40))
def test_csv_is_cut_only_between_rows(rows: list[list[str]], want: int) -> None:
    text = _stream_source.io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    rest, found = text.getvalue().encode(), []
    while rest:
        end, count = stream_cut(rest, want, b",")
        part = list(csv.reader(_stream_source.io.StringIO(rest[:end].decode(), newline="")))
        assert len(part) == count
        found += part
        rest = rest[end:]
    assert found == list(csv.reader(_stream_source.io.StringIO(text.getvalue(), newline="")))


OPENERS: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": zstandard.open}


@pytest.mark.parametrize("suffix", OPENERS)
def test_compressed_files_are_read_and_written(tmp_path: Path, suffix: str) -> None:
    opened = OPENERS[suffix]
    with opened(tmp_path / f"in.jsonl.{suffix}", "wb") as file:
        file.write(b"".join(b'{"n": %d}\n' % i for i in range(20_000)))
    out = tmp_path / f"out.txt.{suffix}"
    lowtide.stream(tmp_path / f"in.jsonl.{suffix}").map(lambda r: str(r["n"])).write(out)
    assert list(lowtide.stream(out)) == [str(i) for i in range(20_000)]
    # The gzip, bz2 and lzma of the library agree that these are whole files.
    if suffix != "zst":
        with opened(out, "rt") as file:
            assert sum(1 for _ in file) == 20_000


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(max_size=300_000).map(lambda b: b * 3), min_size=1, max_size=3), st.booleans(), st.data())
def test_a_zstd_file_is_whole_or_is_told_not_to_be(frames: list[bytes], sized: bool, data: Any) -> None:
    packer = zstandard.ZstdCompressor(write_checksum=sized, write_content_size=sized)
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    parts = [packer.compress(frame) for frame in frames] + [skippable]
    packed = b"".join(parts)
    whole = _stream_files._Frames(io.BytesIO(packed))
    while whole.read(997):
        pass
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    cut = data.draw(st.integers(1, len(packed) - 1))
    torn = _stream_files._Frames(io.BytesIO(packed[:cut]))
    while torn.read(997):
        pass
    assert torn.torn is (cut not in ends)


def test_csv_gives_dicts_and_takes_them(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('a,b\n1,"x\ny"\n2,"say ""hi"""\n')
    stream = lowtide.stream(tmp_path / "in.csv")
    assert list(stream) == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": 'say "hi"'}]
    stream.map(lambda row: {**row, "c": int(row["a"]) * 2}).write(tmp_path / "out.csv")
    assert list(lowtide.stream(tmp_path / "out.csv"))[1] == {"a": "2", "b": 'say "hi"', "c": "4"}
    assert list(lowtide.stream(tmp_path / "in.csv", header=False))[0] == ["a", "b"]


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(
        lowtide.StreamError, match=r"record 2 of .*in.csv: ValueError: the row has 1 fields, the header 2"
    ):
        list(lowtide.stream(tmp_path / "in.csv"))
    with pytest.raises(lowtide.StreamError, match="record 2 .*the field 'z' is not among those of the first record"):
        lowtide.stream([{"a": 1}, {"z": 2}]).write(tmp_path / "out.csv")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("workers", [0, 2])
def test_tables_are_read_and_written(tmp_path: Path, suffix: str, workers: int) -> None:
    table = pa.table({"a": range(30_000), "b": [f"text {i}" for i in range(30_000)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7_000)
    out = tmp_path / f"out.{suffix}"
    stream = lowtide.stream(tmp_path / "in.parquet", "1GiB", workers=workers)
    stream.filter(is_odd).write(out)
    read = pq.read_table(out) if suffix == "parquet" else pa.ipc.open_file(out).read_all()
    assert read.equals(table.filter(pa.array([i % 2 == 1 for i in range(30_000)])))
    assert [row["a"] for row in lowtide.stream(out, "1GiB")] == list(range(1, 30_000, 2))


def test_a_function_of_chunks_gets_tables_of_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(1000)}), tmp_path / "in.parquet")
    stream = lowtide.stream(tmp_path / "in.parquet", "1GiB").map_chunks(lambda table: table.slice(0, 1))
    stream.write(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["a"][0].as_py() == 0


def test_a_schema_may_widen_along_the_way(tmp_path: Path) -> None:
    items = [{"a": None}] * 5000 + [{"a": 1}] * 5000 + [{"a": 1.5, "b": "x"}] * 5000
    for suffix in ("parquet", "arrow"):
        lowtide.stream(items).write(tmp_path / f"out.{suffix}")
        rows = list(lowtide.stream(tmp_path / f"out.{suffix}"))
        assert [rows[0], rows[5000], rows[-1]] == [{"a": a, "b": b} for a, b in ((None, None), (1.0, None), (1.5, "x"))]
        assert len(rows) == 15_000


def test_a_schema_that_widens_late_takes_along_what_was_written(tmp_path: Path) -> None:
    def items() -> Iterator[dict[str, Any]]:
        for i in range(30_000):
            yield {"a": i, "text": f"{i:>600}"}
        yield {"a": 0.5, "text": None}

    for suffix in ("parquet", "arrow"):
        lowtide.stream(items()).write(tmp_path / f"out.{suffix}")
        assert [row["a"] for row in lowtide.stream(tmp_path / f"out.{suffix}")] == [*map(float, range(30_000)), 0.5]
    assert len(os.listdir(tmp_path)) == 2


def test_what_arrow_refuses_at_the_end_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise pa.ArrowInvalid("no such\n  table")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", refuse)
    with pytest.raises(lowtide.StreamError, match=r"^cannot write .*out.parquet: no such table$"):
        lowtide.stream([{"a": 1}]).write(tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == []


def test_patterns_and_lists_of_files_are_one_source(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.log").write_text(f"{name}1\n{name}2")
    assert list(lowtide.stream(tmp_path / "*.log")) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert list(lowtide.stream([tmp_path / "c.log", tmp_path / "a.log"])) == ["c1", "c2", "a1", "a2"]


def test_generators_give_many_records_and_batches_do_not_depend_on_chunks(tmp_path: Path) -> None:
    source = lines_file(tmp_path / "in.txt", 30_000)
    batches = list(lowtide.stream(source).map(twice).batch(7000).map(len))
    assert batches == [7000] * 8 + [4000]
    assert sum(map(len, lowtide.stream(source).batch("64KiB"))) == 30_000


@pytest.mark.parametrize("workers", [0, 2])
def test_reduce_folds_here_or_where_the_chunks_are(tmp_path: Path, workers: int) -> None:
    stream = lowtide.stream(lines_file(tmp_path / "in.txt", 30_000), "1GiB", workers=workers).map(int)
    assert stream.reduce(max, 0) == 29_999
    assert stream.reduce(max, 0, combine=max) == 29_999


def test_map_chunks_gets_every_record_once(tmp_path: Path) -> None:
    source = lines_file(tmp_path / "in.txt", 100_000)
    assert sum(row["rows"] for row in lowtide.stream(source).map_chunks(count_rows)) == 100_000


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_raises_is_set_aside_with_its_place(tmp_path: Path, workers: int) -> None:
    source = lines_file(tmp_path / "in.txt", 1000)
    stream = lowtide.stream(source, "1GiB", workers=workers, errors=tmp_path / "bad.jsonl").map(fail_at_seven)
    assert stream.write(tmp_path / "out.txt").aside == 1
    (bad,) = lowtide.stream(tmp_path / "bad.jsonl")
    assert (bad["file"], bad["record"]) == (str(source), 8)
    assert "ValueError: seven (test_stream.py:" in bad["error"]
    assert len((tmp_path / "out.txt").read_text().split()) == 999


def test_a_record_that_kills_its_worker_is_found_and_set_aside(tmp_path: Path) -> None:
    source = lines_file(tmp_path / "in.txt", 40)
    stream = lowtide.stream(source, "1GiB", workers=2, errors=tmp_path / "bad.jsonl").map(die_at_seven)
    assert stream.write(tmp_path / "out.txt").aside == 1
    assert json.loads((tmp_path / "bad.jsonl").read_text())["record"] == 8
    assert (tmp_path / "out.txt").read_text().split() == [str(i) for i in range(40) if i != 7]


def test_without_orders_the_first_bad_record_stops_it_and_leaves_nothing(tmp_path: Path) -> None:
    source = lines_file(tmp_path / "in.txt", 1000)
    with pytest.raises(lowtide.StreamError, match=r"^record 8 of .*in.txt: ValueError: seven"):
        lowtide.stream(source).map(fail_at_seven).write(tmp_path / "out.txt")
    assert os.listdir(tmp_path) == ["in.txt"]


def test_what_cannot_be_written_is_the_record_s_fault(tmp_path: Path) -> None:
    with pytest.raises(lowtide.StreamError, match=r"record 2 of the iterable: TypeError: text takes str, not int"):
        lowtide.stream(["a", 2]).write(tmp_path / "out.txt")
    with pytest.raises(lowtide.StreamError, match=r"record 1 .*set is not JSON serializable"):
        lowtide.stream([{1}]).write(tmp_path / "out.jsonl")


CEILING = """
import os, sys, lowtide
def spread(line):
    return [line + str(i) for i in range(40)]
def join(parts):
    return "".join(parts)[:80]
def burst(line):  # takes much, and lets go of it before it returns
    if line.startswith("y"):
        return line[:80] + str(len(bytearray(400 << 20)))
    return line
if __name__ == "__main__":
    stream = lowtide.stream(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]), errors="bad.jsonl")
    stream.map(spread).map(join).map(burst).write(sys.argv[4])
"""


def peak_of_session(process: subprocess.Popen[Any]) -> int:
    """The most that a program and all its processes hold, while it runs; counted here and not by itself."""
    peak = 0
    while process.poll() is None:
        total = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == process.pid:
                    for line in Path(f"/proc/{name}/smaps_rollup").read_text().splitlines():
                        total += int(line.split()[1]) << 10 if line.startswith("Pss:") else 0
        peak = max(peak, total)
    return peak


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_larger_than_the_ceiling_stays_below_it_even_within_a_call(tmp_path: Path, workers: int) -> None:
    ceiling = 96 << 20
    with open(tmp_path / "in.txt", "w") as file:
        for i in range(1_500_000):
            file.write(f"{i:08} {'x' * 60}\n" if i != 100_000 else "y" * 300_000 + "\n")
    (tmp_path / "job.py").write_text(CEILING.replace("range(40)", "range(4)"))
    words = [sys.executable, "job.py", "in.txt", str(ceiling), str(workers), "out"]
    with subprocess.Popen(words, cwd=tmp_path, start_new_session=True) as process:
        peak = peak_of_session(process)
    assert process.returncode == 0
    assert 8 << 20 < peak < ceiling
    assert (tmp_path / "out").read_bytes().count(b"\n") == 1_499_999
    (bad,) = lowtide.stream(tmp_path / "bad.jsonl")
    assert bad["record"] == 100_001 and "more than the" in bad["error"]


LOWEST = """
import sys, lowtide
def odd(record):
    return int(record["a"]) % 2 == 1
if __name__ == "__main__":
    source, memory, workers, out = sys.argv[1:]
    lowtide.stream(source, memory, workers=int(workers)).filter(odd).write(out)
"""


@pytest.mark.parametrize(("suffix", "workers"), [("csv", "2"), ("parquet", "0"), ("parquet", "2")])
def test_a_ceiling_that_is_too_low_is_refused_with_the_lowest_that_works(
    tmp_path: Path, suffix: str, workers: str
) -> None:
    def records() -> Iterator[dict[str, Any]]:
        for i in range(200_000):
            yield {"a": i, "b": f"{i * 7919 % 1_000_003:>60}", "c": f"text {i}"}

    lowtide.stream(records()).write(tmp_path / f"in.{suffix}")
    (tmp_path / "job.py").write_text(LOWEST)

    def run(memory: str) -> tuple[int, str, int]:
        words = [sys.executable, "job.py", f"in.{suffix}", memory, workers, f"out.{suffix}"]
        with subprocess.Popen(
            words, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
        ) as process:
            peak = peak_of_session(process)
            assert process.stderr
            return process.returncode, process.stderr.read(), peak

    status, said, _ = run("24MiB")
    found = re.search(
        r"too low: the program.* takes? .* before the first record; raise memory to (\d+ MiB) or more", said
    )
    assert status == 1 and found
    status, said, peak = run(found[1])
    assert (status, said) == (0, "")
    assert peak < _stream_memory.parse_bytes(found[1])
    assert sum(1 for _ in lowtide.stream(tmp_path / f"out.{suffix}")) == 100_000


def test_a_record_that_needs_more_than_the_ceiling_is_named(tmp_path: Path) -> None:
    source = lines_file(tmp_path / "in.txt", 100)
    taken = _stream_memory.tree_bytes()
    stream = lowtide.stream(source, taken + (64 << 20), errors=tmp_path / "bad.jsonl").map(hoard_at_seven)
    summary = stream.write(tmp_path / "out.txt")
    bad = list(lowtide.stream(tmp_path / "bad.jsonl"))
    assert summary.aside == 1 and bad[0]["record"] == 8 and "more than the" in bad[0]["error"]


def test_a_ceiling_below_the_program_itself_or_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x" * (40 << 20))
    with pytest.raises(lowtide.StreamError, match="is too low"):
        list(lowtide.stream(tmp_path / "in.txt", "4MiB"))
    with pytest.raises(lowtide.StreamError, match="the record at byte 0 of .* is longer than"):
        list(lowtide.stream(tmp_path / "in.txt", _stream_memory.tree_bytes() + (16 << 20)))


@pytest.mark.parametrize(
    ("source", "line"),
    [("gone.txt", "gone.txt is not there"), ("*.none", "no file matches"), (".", "is a directory"), ([], "iterable")],
)
def test_a_source_that_is_not_there_is_one_line(tmp_path: Path, source: Any, line: str) -> None:
    if source == []:
        assert list(lowtide.stream(source)) == []
        return
    with pytest.raises(lowtide.StreamError, match=line):
        list(lowtide.stream(os.path.join(tmp_path, source)))


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_truncated_file_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in.txt.{suffix}"
    with OPENERS[suffix](path, "wb") as file:
        file.write(os.urandom(1 << 20).hex().encode())
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(
        lowtide.StreamError, match="data ends in the middle after [0-9]+ bytes of text; get the file anew"
    ):
        lowtide.stream(path).write(tmp_path / "out.txt")


def test_a_function_that_cannot_be_sent_is_one_line(tmp_path: Path) -> None:
    lock = threading.Lock()
    stream = lowtide.stream(lines_file(tmp_path / "in.txt", 9), "1GiB", workers=2).map(lambda line: (line, lock))
    with pytest.raises(lowtide.StreamError, match="cannot send .*lambda.* to a worker: .*workers=0"):
        list(stream)


@pytest.mark.parametrize(
    "make",
    [
        lambda: concurrent.futures.ThreadPoolExecutor(2),
        lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")),
    ],
    ids=["threads", "processes"],
)
def test_any_executor_does_the_work(tmp_path: Path, make: Callable[[], Any]) -> None:
    source = lines_file(tmp_path / "in.txt", 20_000)
    rows = [{"a": i, "b": f"{i:>90}"} for i in range(9_000)]
    lowtide.stream(rows).write(tmp_path / "in.parquet")
    with make() as executor:
        lowtide.stream(source, "1GiB", executor=executor).map(upper).write(tmp_path / "out.txt")
        lowtide.stream(tmp_path / "in.parquet", "1GiB", executor=executor).filter(is_odd).write(tmp_path / "out.arrow")
    assert (tmp_path / "out.txt").read_bytes() == source.read_bytes()
    assert list(lowtide.stream(tmp_path / "out.arrow")) == rows[1::2]


def write_both(folder: Path) -> None:
    """Tables of threads, too: what they give leaves no process either."""
    lowtide.stream(folder / "in.txt", "1GiB", workers=0).map(upper).write(folder / "out.txt")
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        lowtide.stream(folder / "in.parquet", "1GiB", executor=executor).filter(is_odd).write(folder / "out.arrow")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_worker_of_a_pool_may_have_a_stream_of_its_own(tmp_path: Path, isolated: bool) -> None:
    source = lines_file(tmp_path / "in.txt", 20_000)
    rows = [{"a": i, "b": f"{i:>90}"} for i in range(9_000)]
    lowtide.stream(rows).write(tmp_path / "in.parquet")
    if isolated:
        lowtide.isolate(write_both)(tmp_path)
    else:
        with lowtide.Pool(1) as pool:
            pool.submit(write_both, tmp_path).result()
    assert (tmp_path / "out.txt").read_bytes() == source.read_bytes()
    assert list(lowtide.stream(tmp_path / "out.arrow")) == rows[1::2]


def test_a_dask_cluster_does_the_work(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    source = lines_file(tmp_path / "in.txt", 200_000)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        stream = lowtide.stream(source, "1GiB", executor=client, errors=tmp_path / "bad.jsonl")
        summary = stream.map(lambda line: fail_at_seven(line)).write(tmp_path / "out.txt")
        here = tmp_path / "here"
        here.mkdir()

        def meet(records: list[str]) -> list[int]:
            """Who has the first chunk waits until another one has a chunk."""
            (here / str(os.getpid())).touch()
            end = time.monotonic() + 120
            while len(os.listdir(here)) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            return [os.getpid()]

        whose = set(lowtide.stream(source, "1GiB", executor=client).map_chunks(meet))
        assert len(whose) == 2 and os.getpid() not in whose
        lowtide.stream([{"a": i} for i in range(3000)], "1GiB").write(tmp_path / "in.parquet")
        tables = lowtide.stream(tmp_path / "in.parquet", "1GiB", executor=client).map(lambda row: {"a": -row["a"]})
        tables.write(tmp_path / "out.parquet")
    assert summary.aside == 1
    assert (tmp_path / "out.txt").read_text().split() == [str(i) for i in range(200_000) if i != 7]
    assert pq.read_table(tmp_path / "out.parquet")["a"].to_pylist() == [-i for i in range(3000)]


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("512M", 512 << 20), ("1.5GB", 1_500_000_000), ("7", 7)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert _stream_memory.parse_bytes(text) == size
    with pytest.raises(ValueError, match="such as"):
        _stream_memory.parse_bytes(text + " apples")
