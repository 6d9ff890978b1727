"""The ground that the other tests stand on."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import Python, Spawn


def test_a_target_runs_on_every_python_and_has_the_pid_it_was_started_with(target_python: Python, spawn: Spawn) -> None:
    target = spawn(
        target_python,
        "import os, sys; print(os.getpid(), sys.version_info[1], hasattr(sys, 'gettotalrefcount'))",
    )
    assert target.head == [f"{target.pid} {target_python.minor} {target_python.debug}"]
    exe = os.readlink(f"/proc/{target.pid}/exe")
    assert Path(exe).resolve().name.startswith(f"python3.{target_python.minor}")
    assert target.finish() == (0, "")


def test_a_target_is_killed_when_its_test_ends(tmp_path: Path, this_python: Python, spawn: Spawn) -> None:
    script = tmp_path / "sleeper.py"
    script.write_text("import time\nprint('ready', flush=True)\nwhile True: time.sleep(60)\n")
    target = spawn(this_python, script)
    target.kill()
    assert not Path(f"/proc/{target.pid}").exists()
