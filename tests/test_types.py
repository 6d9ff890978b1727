"""What a type checker makes of a program that uses lowtide: the example, and what each call is known to give."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "low_report.py"

KNOWN = """
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, assert_type
import lowtide

def length(line: str) -> int:
    return len(line)
def words(line: str) -> Iterator[str]:
    yield from line.split()
def len_all(lines: list[str]) -> list[int]:
    return [len(line) for line in lines]
def add(a: int, b: int) -> int:
    return a + b

numbers = lowtide.stream(["a", "b"])
assert_type(numbers, lowtide.Stream[Any])  # paths
lines = lowtide.stream(line for line in ("a b", "c"))
assert_type(lines, lowtide.Stream[str])
assert_type(lines.map(length), lowtide.Stream[int])
assert_type(lines.map(words), lowtide.Stream[str])
assert_type(lines.filter(str.strip), lowtide.Stream[str])
assert_type(lines.batch(10), lowtide.Stream[list[str]])
assert_type(lines.map_chunks(len_all), lowtide.Stream[int])
assert_type(lines.map(length).reduce(add, 0), int)
assert_type(list(lines), list[str])
assert_type(lines.write("out.txt"), lowtide.Summary)

@lowtide.cache(max_bytes="1MiB")
def cached(a: int, *, b: str = "") -> float:
    return a / 2
assert_type(cached(1, b=""), float)
cached("1")  # E: arg-type
class Shop:
    @lowtide.cache
    def price(self, item: str) -> int:
        return len(item)
assert_type(Shop().price("x"), int)
@lowtide.cache
async def fetch(url: str) -> bytes:
    return url.encode()

@lowtide.isolate
def one(a: int) -> str:
    return str(a)
@lowtide.isolate(memory="1GiB", timeout=3)
def two(a: int) -> str:
    return str(a)
@lowtide.isolate
async def three(a: int) -> str:
    return str(a)
async def main() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await three(1), str)
assert_type(one(1), str)
assert_type(two(1), str)
two("1")  # E: arg-type

with lowtide.Pool(2) as pool:
    assert_type(pool.submit(length, "x"), Future[int])
    assert_type(list(pool.map(length, ["x"])), list[int])
    pool.submit(length, 1)  # E: arg-type

cache = lowtide.Cache[str, int](max_items=3)
assert_type(cache["x"], int)
assert_type(cache.get("x"), int | None)
assert_type(cache.get_or_compute("x", lambda: 1), int)
lowtide.Cache(max_byte=1)  # E: call-arg
with lowtide.limit("80%") as limit:
    assert_type(limit.stats.pressures, int)
with lowtide.scope() as scope:
    pass
assert_type(scope.survivors[0].paths, list[str])
assert_type(lowtide.free().returned_bytes, int)
assert_type(lowtide.rss().lines[0].bytes, int)
"""


def check(file: Path, folder: Path) -> list[str]:
    pytest.importorskip("mypy")
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--hide-error-context", "--no-error-summary"]
    words += [f"--cache-dir={folder / 'cache'}", "--no-pretty", os.fspath(file)]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder).stdout.splitlines()


def test_the_example_and_each_call_are_typed_as_they_behave(tmp_path: Path) -> None:
    assert check(EXAMPLE, tmp_path) == []
    (tmp_path / "known.py").write_text(KNOWN)
    meant = {
        (number, line.rpartition("# E: ")[2]) for number, line in enumerate(KNOWN.splitlines(), 1) if "# E: " in line
    }
    found = check(tmp_path / "known.py", tmp_path)
    assert {
        (int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in found if ": error: " in line
    } == meant, found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_example_runs(tmp_path: Path, workers: str) -> None:
    words = [sys.executable, EXAMPLE, "requests.jsonl", "report.csv", "--make", "5000", "--workers", workers]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 users; " in done.stdout and "longest path: 9" in done.stdout
    with open(tmp_path / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 2000 and all(float(row["ms"]) > 500 for row in rows)
