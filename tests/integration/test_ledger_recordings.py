"""The ledger in every recording: of run, attach, snapshot; and why there is none."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from conftest import PATIENCE_S, Lowtide, Python, Spawn
from test_free import SPARSE
from test_package_inside import inside, package

__all__ = ["package"]


def ledger(lowtide: Lowtide, file: Path) -> dict[str, Any]:
    """By name, as rss and report tell it: the sum is the RSS, and SPARSE's program has room in its pools."""
    told = [lowtide(command, file, "--json") for command in ("rss", "report")]
    assert [(done.status, done.stderr) for done in told] == [(0, ""), (0, "")]
    rss, report = (json.loads(done.stdout) for done in told)
    assert rss["ledger"] == report["ledger"] and rss["process"]["pid"] == report["process"]["pid"]
    assert rss["memory"]["rss_bytes"] == report["memory"]["rss_bytes"] <= report["memory"]["peak_rss_bytes"]
    assert sum(line["bytes"] for line in rss["ledger"]) == rss["memory"]["rss_bytes"]
    lines = {line["name"]: line for line in rss["ledger"]}
    assert lines["empty pools"]["returnable_bytes"] > 15 << 20, lines
    assert lines["unexplained"]["bytes"] < rss["memory"]["rss_bytes"] * 0.03, lines
    return lines


def test_a_recording_of_attach_holds_the_ledger_with_a_heap_and_without(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target, file = spawn(target_python, SPARSE), tmp_path / "a.tide"
    for how in ([], ["--no-heap"]):
        done = lowtide("attach", target.pid, "--for", "50ms", *how, "-o", file)
        assert (done.status, done.stderr) == (0, "")
        assert "tuple" in ledger(lowtide, file)["empty pools"]["note"]
    live = json.loads(lowtide("rss", target.pid, "--json").stdout)["memory"]["rss_bytes"]
    recorded = json.loads(lowtide("rss", file, "--json").stdout)["memory"]["rss_bytes"]
    assert abs(live - recorded) < 8 << 20
    assert target.finish() == (0, "")


def test_an_attach_without_a_heap_that_ctrl_c_ends_holds_the_ledger(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, lowtide_exe: Path, tmp_path: Path
) -> None:
    target, file = spawn(this_python, SPARSE), tmp_path / "a.tide"
    process = subprocess.Popen(
        [lowtide_exe, "attach", str(target.pid), "--for", "1h", "--no-heap", "-o", file], stdout=subprocess.PIPE
    )
    partial, end = Path(f"{file}.partial"), time.monotonic() + PATIENCE_S
    while not (partial.exists() and partial.stat().st_size > 2000) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    assert partial.stat().st_size > 2000, "it does not record"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    ledger(lowtide, file)
    assert target.finish() == (0, "")


def test_a_recording_of_run_holds_the_ledger_of_the_end(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SPARSE)
    words = ["-o", tmp_path / "a.tide", "--no-report", "--python", local_python.executable, tmp_path / "app.py"]
    for how in ([], ["--no-profile"]):
        done = lowtide("run", *how, *words)
        assert (done.status, done.stderr) == (0, "")
        ledger(lowtide, tmp_path / "a.tide")


def test_a_snapshot_from_inside_holds_the_ledger(
    local_python: Python, package: Path, lowtide_exe: Path, lowtide: Lowtide, tmp_path: Path
) -> None:
    code = f"{SPARSE}\nimport lowtide\nlowtide.snapshot('a.tide')\nprint(lowtide.rss().rss_bytes)"
    resident = inside(local_python, package, lowtide_exe, code, tmp_path)
    lines = ledger(lowtide, tmp_path / "a.tide")
    assert isinstance(resident, int)
    assert abs(sum(line["bytes"] for line in lines.values()) - resident) < 8 << 20


def test_what_was_killed_left_no_ledger_and_both_say_so(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"{SPARSE}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    file = tmp_path / "a.tide"
    words = ["-o", file, "--no-report", "--python", local_python.executable, tmp_path / "app.py"]
    assert lowtide("run", *words).status == -signal.SIGKILL
    done = lowtide("rss", file)
    assert done.status == 1 and done.stderr.count("\n") == 1
    assert "has no ledger: the process had ended" in done.stderr
    told = lowtide("report", file, "--json")
    assert (told.status, json.loads(told.stdout)["ledger"]) == (0, [])
