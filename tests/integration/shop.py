"""The fixed recording of the command line's tests (view_recording.c), and a terminal to read it on."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from conftest import PATIENCE_S


def make_shop(lowtide_exe: Path, path: Path, sessions: int = 1000, hostile: bool = False) -> Path:
    maker = lowtide_exe.parent / "view_recording"
    if not maker.exists():
        pytest.skip(f"{maker} is not there: it is built with the tests")
    words = [maker, path, str(sessions)] + (["hostile"] if hostile else [])
    subprocess.run(words, check=True)
    return path


def on_terminal(words: list[str | Path], columns: int = 100, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs it with a terminal as standard output: its status, and what it printed there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    settings = {**clean, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
    process = subprocess.Popen(list(map(str, words)), stdout=slave, stderr=slave, stdin=slave, env=settings)
    os.close(slave)
    said = b""
    while True:
        if not select.select([master], [], [], PATIENCE_S)[0]:
            process.kill()
            break
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(master)
    return process.wait(timeout=PATIENCE_S), said.decode(errors="surrogateescape").replace("\r\n", "\n")
