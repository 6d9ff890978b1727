"""`make soak`: thousands of dumps against targets at work, until their end. $LOWTIDE_SOAK says how many a kind (500)."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn
from test_dump_targets import ENDINGS, remains, start

ROUNDS = int(os.environ.get("LOWTIDE_SOAK", "500"))

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_target_outlives_hundreds_of_dumps(
    kind: str, target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = start(spawn, target_python, kind)
    for n in range(ROUNDS):
        done = lowtide("dump", target.pid, "-o", tmp_path / "t.tide")
        assert (done.status, done.stderr) == (0, ""), f"dump {n}"
    assert target.finish() == (0, ENDINGS[kind][1])
    assert target.stderr() == ""


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_target_outlives_hundreds_of_dumps_killed_at_any_moment(
    kind: str, target_python: Python, spawn: Spawn, lowtide: Lowtide, lowtide_exe: Path, tmp_path: Path
) -> None:
    target = start(spawn, target_python, kind)
    before = remains(target.pid)
    chance = random.Random(kind)
    command = [lowtide_exe, "dump", str(target.pid), "-o", tmp_path / "t.tide"]
    for _ in range(ROUNDS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.random() ** 2 * 0.1)
        process.send_signal(chance.choice([2, 9, 15]))
        process.wait()
    if kind not in ("threaded", "forking", "asyncio", "replugging"):  # theirs come and go
        end = time.monotonic() + PATIENCE_S
        while (now := remains(target.pid)) != before:
            assert time.monotonic() < end, (now, before)
            time.sleep(0.1)
    assert lowtide("dump", target.pid, "-o", tmp_path / "t.tide").status == 0
    assert target.finish() == (0, ENDINGS[kind][1])
    assert target.stderr() == ""


def test_hundreds_of_targets_dumped_as_they_end(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    chance = random.Random(3)
    code = "import sys, time\nprint('ready', flush=True)\ntime.sleep(float(sys.argv[1]))\nprint('after')\nsys.exit(5)"
    for _ in range(ROUNDS):
        target = spawn(this_python, code, str(chance.random() * 0.05))
        done = lowtide("dump", target.pid, "-o", tmp_path / "t.tide")
        assert (done.status, done.stderr.count("\n")) in ((0, 0), (1, 1))
        assert target.finish() == (5, "after\n")
        assert target.stderr() == ""
