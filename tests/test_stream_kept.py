"""What the functions of a stream keep counts against its ceiling, and is no record's fault."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
