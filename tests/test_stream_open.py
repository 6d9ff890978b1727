"""Open text that was read from already, compressed files of no bytes, and threads that work side by side."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import lowtide
import pytest


def lines(count: int) -> list[str]:
    return [f"line {i}" for i in range(count)]


def test_of_open_text_that_was_read_from_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(lines(5000)) + "\n", encoding="utf-8")
    with open(path, encoding="utf-8") as file:
        assert list(lowtide.stream(file)) == lines(5000)
    with open(path, encoding="utf-8") as file:
        next(file)
        assert list(lowtide.stream(file)) == lines(5000)[1:]
    with open(path, encoding="utf-8") as file:
        file.readline()
        assert list(lowtide.stream(file)) == lines(5000)[1:]
    wrapped = io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8")
    assert wrapped.read(7) == "line 0\n"
    assert list(lowtide.stream(wrapped)) == lines(5000)[1:]


def test_of_standard_input_that_was_read_from_the_rest_is_read() -> None:
    code = "import sys, lowtide; next(sys.stdin); print(len(list(lowtide.stream(sys.stdin))))"
    text = "\n".join(lines(5000)) + "\n"
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True)
    assert done.stdout == "4999\n", done.stderr


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_of_no_bytes_is_cut_and_no_stream_writes_one(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"e.txt.{suffix}")
    Path(path).touch()
    with pytest.raises(lowtide.StreamError, match="data ends in the middle after 0 bytes of text"):
        list(lowtide.stream(path))
    lowtide.stream(iter("ab")).filter(lambda line: False).write(path)
    assert os.path.getsize(path) > 0
    assert list(lowtide.stream(path)) == []
    if suffix == "gz":
        with gzip.open(path) as file:
            assert file.read() == b""


THREADS = """
import time, lowtide
from concurrent.futures import ThreadPoolExecutor
def grow(line):
    held = b"x" * (20 << 20)
    time.sleep(0.01)  # so that others hold theirs
    return line
with ThreadPoolExecutor(4) as threads:
    print(len(list(lowtide.stream(iter(range(1, 301)), "150MiB", executor=threads).map(grow))))
"""


def test_what_threads_take_side_by_side_is_no_record_s_fault() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert done.stdout == "300\n", done.stderr
