"""What the functions of a stream keep counts against its ceiling, and is no record's fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lowtide
import pytest
from test_stream import peak_of_session

KEEPS = """
import functools, sys, lowtide
kept = []
@functools.lru_cache(maxsize=None)
def page_of(line):
    return line * 2500
def cached(line):
    return page_of(line)[:7]
def appended(line):
    kept.append(line * 2500)
    return line
def fold(so_far, line):
    kept.append(line * 2500)
    return line
if __name__ == "__main__":
    how, out = sys.argv[1:]
    stream = lowtide.stream("in.txt", "80MiB", workers=int(how == "fold"), errors="bad.jsonl", resume=True)
    if how == "fold":
        stream.reduce(fold, "")
    else:
        stream.map(globals()[how]).write(out)
"""


@pytest.mark.parametrize("how", ["cached", "appended", "fold"])
def test_a_program_that_keeps_more_than_the_ceiling_is_told_so_and_sets_no_record_aside(
    tmp_path: Path, how: str
) -> None:
    (tmp_path / "job.py").write_text(KEEPS)
    (tmp_path / "in.txt").write_text("".join(f"{i:07}\n" for i in range(6_000)))
    words = [sys.executable, "job.py", how, "out.txt"]
    done = 0
    for rounds in range(30):
        with subprocess.Popen(
            words, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
        ) as process:
            peak = peak_of_session(process)
            assert process.stderr
            said = process.stderr.read()
        assert peak < 80 << 20 or how == "fold"
        if process.returncode == 0:
            break
        assert re.search(
            r"^lowtide\S*StreamError: the program itself takes \d.* of the 80.0 MiB between two rec", said, re.M
        )
        assert not (tmp_path / "bad.jsonl").exists() or (tmp_path / "bad.jsonl").read_text() == ""
        if how == "fold":
            return
        before, done = done, (tmp_path / "out.txt.part").stat().st_size
        assert done > before or not rounds  # it goes on, with what it kept gone
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "in.txt").read_bytes()


MANY = """
import os, sys, lowtide
def spread(line):
    return line + "x" * 10_000
if __name__ == "__main__":
    with open("in.txt", "w") as file:
        file.writelines(f"{i:05}\\n" for i in range(12_000))
    done = lowtide.stream("in.txt", "96MiB", workers=int(sys.argv[1])).map(spread).write("out.txt")
    print(done.records_out, os.path.getsize("out.txt"), done.peak_bytes < done.ceiling_bytes)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_function_that_makes_a_thousand_times_as_much_has_its_chunks_written_half_by_half(
    tmp_path: Path, workers: str
) -> None:
    (tmp_path / "job.py").write_text(MANY)
    done = subprocess.run([sys.executable, "job.py", workers], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"12000 {12_000 * 10_006} True\n", done.stderr


def few(records: Any) -> Any:
    if len(records) > 100:
        raise MemoryError
    return records


@pytest.mark.parametrize("source", ["in.txt", "in.txt.gz", "in.csv", "in.jsonl", "in.parquet", "items"])
def test_a_run_that_is_stopped_between_halves_goes_on_there(tmp_path: Path, source: str) -> None:
    numbers = [{"n": str(i)} for i in range(2000)]
    path = str(tmp_path / source)
    if source == "items":
        given: Any = numbers
    else:
        given = path
        lowtide.stream(iter([row["n"] for row in numbers]) if ".txt" in source else numbers).write(path)
    stop = True
    seen: list[int] = []

    def number(record: Any) -> dict[str, int]:
        n = int(record["n"] if isinstance(record, dict) else record)
        if n == 1100 and stop:
            raise KeyboardInterrupt
        seen.append(n)
        return {"n": n}

    out = tmp_path / "out.jsonl"
    stream = lowtide.stream(given, "1GiB", resume=True).map_chunks(few).map(number)
    with pytest.raises(KeyboardInterrupt):
        stream.write(out)
    stop = False
    seen.clear()
    summary = stream.write(out)
    assert summary.resumed and summary.records_in == 2000
    assert [record["n"] for record in lowtide.stream(out)] == list(range(2000))
    assert seen[0] > 900 and len(seen) < 1100


SLOW = """
import os, sys, time, lowtide
done = []
def ask(line):
    done.append(line)
    if len(done) == int(sys.argv[1]):
        os.kill(os.getpid(), 9)
    time.sleep(0.002)
    return line
lowtide.stream("in.txt", resume=True).map(ask).write("out.txt")
print(len(done))
"""


def test_what_takes_long_is_kept_every_second_and_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{i:05}\n" for i in range(2000)))
    (tmp_path / "job.py").write_text(SLOW)
    words = [sys.executable, "job.py"]
    env = {**os.environ, "LOWTIDE_STREAM_SAVE_S": "0"}
    assert subprocess.run([*words, "1900"], cwd=tmp_path, env=env).returncode == -9
    again = subprocess.run([*words, "9999"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert int(again.stdout) < 1400, again.stderr
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "in.txt").read_bytes()
