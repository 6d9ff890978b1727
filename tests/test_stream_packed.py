"""Compressed sources of a stream: members, junk behind them, what is cut off or damaged; and text that is open."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import lowtide
import pytest
import zstandard
from conftest import EXECUTABLE

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
RANDOM = random.Random(5)
LINES = [f"{i} {RANDOM.randbytes(10).hex()}" for i in range(20_000)]
TEXT = "".join(line + "\n" for line in LINES).encode()
HALF = len(TEXT) // 2


def packed(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("members", [1, 2, 700])
def test_members_are_one_text_and_one_of_nothing_is_nothing(tmp_path: Path, suffix: str, members: int) -> None:
    step = -(-len(TEXT) // members)
    data = b"".join(PACKERS[suffix](TEXT[at : at + step]) for at in range(0, len(TEXT), step))
    assert list(lowtide.stream(packed(tmp_path / f"in.txt.{suffix}", data))) == LINES
    assert list(lowtide.stream(packed(tmp_path / f"no.txt.{suffix}", PACKERS[suffix](b"")))) == []


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("junk", [b"\0" * 70_000, b"junk", b"\0" * 40_000 + b"PK\3\4"])
def test_junk_behind_the_data_is_passed_over_and_told_unless_it_is_zeros(
    tmp_path: Path, suffix: str, junk: bytes
) -> None:
    path = packed(tmp_path / f"in.txt.{suffix}", PACKERS[suffix](TEXT) + junk)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert list(lowtide.stream(path)) == LINES
    assert [str(one.message) for one in told] == (
        [f"{path} goes on behind its compressed data with what is none of it; that is not read"]
        if junk.strip(b"\0")
        else []
    )


def test_the_command_line_tells_junk_in_a_line(tmp_path: Path) -> None:
    packed(tmp_path / "in.txt.gz", gzip.compress(b"a\n") + b"junk")
    (tmp_path / "job.py").write_text("def same(line): return line\n")
    words = [str(EXECUTABLE), "pipe", f"--python={sys.executable}", "job:same", "in.txt.gz", "-o", "out.txt"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0].startswith("lowtide: in.txt.gz goes on behind its compressed data ")
    assert (tmp_path / "out.txt").read_text() == "a\n"


@pytest.mark.parametrize("suffix", PACKERS)
def test_damage_in_a_later_member_is_no_junk(tmp_path: Path, suffix: str) -> None:
    first, second = PACKERS[suffix](TEXT[:HALF]), bytearray(PACKERS[suffix](TEXT[HALF:]))
    for at in range(40, 60):
        second[at] ^= 0x55
    with pytest.raises(lowtide.StreamError, match="data is damaged"):
        list(lowtide.stream(packed(tmp_path / f"in.txt.{suffix}", first + second)))


@pytest.mark.parametrize("suffix", PACKERS)
def test_all_whole_records_before_a_cut_are_done(tmp_path: Path, suffix: str) -> None:
    data = PACKERS[suffix](TEXT[:HALF]) + PACKERS[suffix](TEXT[HALF:])
    path, got = packed(tmp_path / f"in.txt.{suffix}", data[: len(data) - 30]), []
    with pytest.raises(lowtide.StreamError, match="data ends in the middle after [0-9]+ bytes of text") as raised:
        for line in lowtide.stream(path):
            got.append(line)  # noqa: PERF402
    reached = int(str(raised.value).partition(" after ")[2].split()[0])
    assert reached >= HALF
    assert got == TEXT[:reached].decode().split("\n")[:-1]


def test_text_that_is_open_is_read_as_bytes_are() -> None:
    text = 'a,b\r\n1,"x\ny"\n2,\u00e9'
    for form in ("text", "csv", "bytes"):
        as_bytes = list(lowtide.stream(io.BytesIO(text.encode()), format=form))
        assert list(lowtide.stream(io.StringIO(text, newline=""), format=form)) == as_bytes
    assert list(lowtide.stream(io.StringIO("a\n"))) == ["a"]


def test_an_open_text_file_keeps_its_own_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_text("caf\u00e9\nb\n", encoding="latin-1")
    with open(tmp_path / "latin.txt", encoding="latin-1") as file:
        assert list(lowtide.stream(file)) == ["caf\u00e9", "b"]
