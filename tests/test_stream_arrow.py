"""Arrow files: read batch by batch where they are worked on, written from where the tables lie."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import socket
import struct
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lowtide
import pyarrow as pa
import pytest
from lowtide import _keep
from lowtide._stream_arrow import Places, Regions, Rows
from lowtide._stream_tables import read_tables

N = 5000
TABLES: dict[str, Callable[[], pa.Table]] = {
    "plain": lambda: pa.table({"a": range(N), "b": [f"text {i}" if i % 3 else None for i in range(N)]}),
    "nested": lambda: pa.table(
        {"a": [[i, None] if i % 5 else [] for i in range(N)], "b": [{"x": i % 2 == 0, "y": str(i)} for i in range(N)]}
    ),
    "dictionary": lambda: pa.table({"a": pa.array([f"w{i % 7}" for i in range(N)]).dictionary_encode()}),
    "views": lambda: pa.table({"a": pa.array([f"{i} " * (i % 9) for i in range(N)], pa.string_view())}),
    "nulls": lambda: pa.table({"a": pa.nulls(N), "b": pa.array([None, 1.5] * (N // 2))}),
    "no_columns": lambda: pa.table({}),
}


def write(path: Path, table: pa.Table, rows: int, form: str = "file", codec: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema, options=options) as writer:
        batches = table.to_batches(max_chunksize=rows)
        for batch in [part.slice(0, 0) for part in batches[:1]] + batches:
            writer.write_batch(batch)


@pytest.mark.parametrize("kind", TABLES)
def test_arrow_files_of_any_kind_are_read_as_pyarrow_reads_them(tmp_path: Path, kind: str) -> None:
    table, path = TABLES[kind](), tmp_path / "in.arrow"
    with ThreadPoolExecutor(1) as threads:
        for form, codec in (("file", None), ("file", "lz4"), ("file", "zstd"), ("stream", None)):
            write(path, table, 700, form, codec)
            for executor in (None, threads):
                assert list(lowtide.stream(path, "1GiB", executor=executor)) == table.to_pylist(), (form, codec)


def bigger(table: pa.Table) -> pa.Table:
    return table.set_column(0, "a", pa.array([a.as_py() + 1 for a in table["a"]]))


@pytest.mark.parametrize("workers", [0, 2])
def test_tables_of_batches_of_any_size_come_out_in_order(tmp_path: Path, workers: int) -> None:
    big = pa.table({"a": range(300_000), "b": [f"{i:060}" for i in range(300_000)]})
    small = pa.table({"a": range(10), "b": ["x"] * 10})
    with pa.OSFile(str(tmp_path / "in.arrow"), "wb") as file, pa.ipc.new_file(file, big.schema) as writer:
        for table in (small, big.slice(0, 40_000), big.slice(40_000, 1), big.slice(40_001, 200_000), small):
            writer.write_table(table)
    stream = lowtide.stream(tmp_path / "in.arrow", "1GiB", workers=workers).map_chunks(bigger)
    done = stream.write(tmp_path / "out.arrow")
    wanted = pa.ipc.open_file(tmp_path / "in.arrow").read_all()
    found = pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    assert found["b"].equals(wanted["b"])
    assert found["a"].to_pylist() == [a + 1 for a in wanted["a"].to_pylist()]
    assert done.records_in == done.records_out == wanted.num_rows


def test_tables_that_a_program_keeps_stay_as_they_were(tmp_path: Path) -> None:
    table, kept = TABLES["plain"](), []
    write(tmp_path / "in.arrow", table, 500)
    stream = lowtide.stream(tmp_path / "in.arrow", "1GiB").map_chunks(lambda part: kept.append(part) or part)
    assert list(stream) == table.to_pylist()
    assert pa.concat_tables(kept).equals(table)


def read(regions: Regions, path: Path, number: int) -> pa.Table:
    places = Places(str(path))
    batch = places.batch(number)
    assert batch
    return regions.table(places.handle, str(path), pa.ipc.open_file(path).schema, None, batch)


def address(table: pa.Table) -> int:
    found: int = table["a"].chunk(0).buffers()[1].address
    return found


def test_a_batch_is_read_where_the_one_before_lay_unless_that_is_in_use(tmp_path: Path) -> None:
    table, regions = TABLES["plain"](), Regions()
    write(tmp_path / "in.arrow", table, 500)
    first = read(regions, tmp_path / "in.arrow", 1)
    at = address(first)
    assert at % 64 == 0
    part = first.slice(3, 4)
    del first
    second = read(regions, tmp_path / "in.arrow", 2)
    assert address(second) != at
    assert part.to_pylist() == table.slice(3, 4).to_pylist()
    del part
    assert address(read(regions, tmp_path / "in.arrow", 3)) == at


def test_one_batch_at_a_time_lies_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "in.arrow", TABLES["plain"](), 500)
    found = set()
    for part, _ in read_tables(str(tmp_path / "in.arrow"), "arrow", 0, None, lambda: (1 << 20, 1 << 20)):
        if part.num_rows:
            found.add(address(part))
        del part
    assert len(found) == 1


def test_rows_are_read_through_the_descriptor_of_who_opened_the_file(tmp_path: Path) -> None:
    table, path = TABLES["plain"](), tmp_path / "in.arrow"
    write(path, table, 500)
    places = Places(str(path))
    batch = places.batch(3)
    assert batch
    rows = Rows(places.handle, str(path), table.schema, ["b"], batch)
    path.unlink()
    write(path, table.slice(7), 500)
    for start, count in ((0, 10), (200, 250), (450, 50), (3, 4)):
        far = pickle.loads(pickle.dumps(rows.slice(start, count)))
        assert far.read().equals(table.select(["b"]).slice(1000 + start, count))


def test_nothing_of_a_batch_stays_in_a_thread_that_outlives_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Region(mmap.mmap):
        def __init__(self, *_: Any, **__: Any) -> None:
            made.append(weakref.ref(self))

    made: list[weakref.ref[Region]] = []
    monkeypatch.setattr(mmap, "mmap", Region)
    path, table = tmp_path / "in.arrow", TABLES["plain"]()
    write(path, table, 500)
    with ThreadPoolExecutor(1) as executor:
        places = Places(str(path))
        batch = places.batch(3)
        assert batch
        rows = Rows(places.handle, str(path), table.schema, None, batch).slice(0, 10)
        assert executor.submit(lambda some: some.read().num_rows, rows).result() == 10
        del places, rows
        executor.submit(len, "").result()  # it has left the call before
        assert [region() for region in made] == [None]


def test_a_file_made_shorter_meanwhile_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"

    def cut(record: Any) -> Any:
        os.truncate(path, 20_000)
        return record

    with ThreadPoolExecutor(1) as threads:
        for executor in (None, threads):
            write(path, TABLES["plain"](), 500)
            with pytest.raises(lowtide.StreamError, match=r"^[^\n]*in.arrow[^\n]+$"):
                list(lowtide.stream(path, "1GiB", executor=executor).map(cut))


def test_a_damaged_place_of_a_batch_is_left_to_pyarrow_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    write(path, TABLES["plain"](), 500)
    whole = path.read_bytes()
    (length,) = struct.unpack("<i", whole[-10:-6])
    places = Places(str(path))
    batch = places.batch(2)
    assert batch
    block = whole.index(struct.pack("<qi", batch.at, batch.head), len(whole) - 10 - length)
    for at, what in ((block, struct.pack("<q", 1 << 40)), (batch.at + 8, b"\xff\xff\xff\x7f"), (batch.at, b"\0" * 8)):
        path.write_bytes(whole[:at] + what + whole[at + len(what) :])
        with pytest.raises(lowtide.StreamError, match=r"^cannot read .*in.arrow: [^\n]+$"):
            list(lowtide.stream(path, "1GiB"))


def test_a_file_in_memory_travels_as_it_is(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    descriptor = os.memfd_create("mine")
    os.write(descriptor, b"some words " * 10_000)
    buffer = _keep.region(descriptor)
    os.close(descriptor)
    _keep.send(ours.fileno(), 2, b"body", [pickle.PickleBuffer(buffer), pickle.PickleBuffer(b"others " * 20_000)])
    got = _keep.receive(theirs.fileno())
    assert got and bytes(got[2][0]) == b"some words " * 10_000 and got[2][1] == b"others " * 20_000
    assert memoryview(got[2][0]).readonly
    del buffer, got
    gc.collect()
    assert not [name for name in Path("/proc/self/fd").iterdir() if "memfd:mine" in os.path.realpath(name)]
    assert "memfd:mine" not in Path("/proc/self/maps").read_text()
    ours.close()
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        _keep.region(9999)
