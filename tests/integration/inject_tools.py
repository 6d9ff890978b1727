"""The programs that the injector's tests are made of; CMake builds them beside the executable."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import EXECUTABLE

DRIVER = EXECUTABLE.parent / "inject_driver"  # brings the agent in and takes it out
AGENT = EXECUTABLE.parent / "inject_agent.so"  # answers each packet with itself
CALLS = EXECUTABLE.parent / "inject_calls"  # looks like a Python and waits in one system call
REAPER = EXECUTABLE.parent / "inject_reaper"  # runs a command and kills it at its N-th step


def inject(
    pid: int,
    count: int = 1,
    timeout_ms: int = 30000,
    *,
    driver: Path = DRIVER,
    agent: Path = AGENT,
    shared_files: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Brings the agent into the process and takes it out, count times. A failure is one line in stderr.

    shared_files: as on a Linux before 6.9.
    """
    command = [driver, str(pid), agent, str(count), str(timeout_ms)]
    environment = {**os.environ, "SHARED_FILES": "1"} if shared_files else None
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, env=environment)
