"""A second, small speaker of src/control/control.h, and a target that loads the agent by itself.

To try the agent without the injector:

    with agent_in(spawn, python, "x = [1] * 1000") as agent:
        result = agent.capture("out.tide")     # a Result: status, text, objects, pause_us …

The target calls ``agent_start`` through ctypes on a thread that lets go of the GIL, as the
injector's thread does; the socket's other end is this process's. From a shell, the same by hand:

    python3 tests/control.py [--python PYTHON] OUT.tide ['code of the target']
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELLO, CAPTURE, PROGRESS, RESULT, CANCEL, BYE = range(1, 7)
NO_VALUES, NO_IN_PLACE, IN_PLACE = 1, 2, 4
MODES = ("none", "fork", "in-place")

HEADER = struct.Struct("<4sHHII")
RESULT_BODY = struct.Struct("<iI7Q480s")

EXECUTABLE = os.environ.get("LOWTIDE_EXE")
BUILD = Path(EXECUTABLE).parent if EXECUTABLE else Path(__file__).parents[1] / "build/bin"
AGENT = Path(os.environ.get("LOWTIDE_AGENT", BUILD / "lowtide-agent.so"))

# The target's side: loads the agent and lets a thread of its own serve.
SERVE = """
def _serve():
    import ctypes, os, threading
    library = ctypes.CDLL(os.environ["TEST_AGENT"])
    fd = int(os.environ["TEST_FD"])
    def run():
        library.agent_start(fd)
        os.close(fd)
    threading.Thread(target=run, daemon=True).start()
_serve()
"""


Process = subprocess.Popen[str]


def packet(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(b"LTCT", 1, kind, len(body), 0) + body


@dataclass
class Result:
    status: int
    mode: str
    gil_us: int
    pause_us: int
    walk_us: int
    objects: int
    references: int
    skipped: int
    bytes: int
    text: str


class Agent:
    """The command line's end of a talk with an agent."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        sock.settimeout(240)

    def receive(self) -> tuple[int, bytes]:
        data = self.sock.recv(4096)
        if not data:
            raise EOFError("the agent is gone")
        magic, version, kind, size, zero = HEADER.unpack_from(data)
        assert (magic, version, zero) == (b"LTCT", 1, 0)
        assert len(data) == HEADER.size + size
        return kind, data[HEADER.size :]

    def hello(self) -> int:
        """Waits for HELLO and returns the PID that the agent sees itself under."""
        kind, body = self.receive()
        assert kind == HELLO
        return int(struct.unpack_from("<II", body)[0])

    def ask(self, path: str | Path | int, flags: int = 0, timeout_ms: int = 200_000) -> None:
        fd = path if isinstance(path, int) else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        self.sock.sendmsg([packet(CAPTURE, struct.pack("<III", flags, timeout_ms, 0))], [rights])
        if not isinstance(path, int):
            os.close(fd)

    def result(self) -> Result:
        while (message := self.receive())[0] == PROGRESS:
            pass
        kind, body = message
        assert kind == RESULT
        status, mode, *numbers, text = RESULT_BODY.unpack(body)
        return Result(status, MODES[mode], *numbers, text.rstrip(b"\0").decode())

    def capture(self, path: str | Path | int, flags: int = 0, timeout_ms: int = 200_000) -> Result:
        self.ask(path, flags, timeout_ms)
        return self.result()

    def cancel(self) -> None:
        self.sock.send(packet(CANCEL))

    def bye(self) -> None:
        self.sock.send(packet(BYE))


@contextlib.contextmanager
def agent_in(command: list[str], code: str, **options: object) -> Iterator[tuple[Agent, Process]]:
    """Runs `code` in a target (command: a Python) that serves an agent; yields both."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {**os.environ, "TEST_AGENT": str(AGENT), "TEST_FD": str(its.fileno())}
    process = subprocess.Popen(
        [*command, "-c", SERVE + code],
        env=env,
        pass_fds=[its.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    its.close()
    try:
        with mine:
            agent = Agent(mine, process.pid)
            agent.hello()
            yield agent, process
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    words = sys.argv[1:]
    python = [sys.executable]
    if words[:1] == ["--python"]:
        python, words = [words[1]], words[2:]
    code = (words[1:] or ["x = [[i] for i in range(100_000)]"])[0]
    with agent_in(python, code + "\nimport time\ntime.sleep(3600)") as (agent, _):
        time.sleep(0.5)
        print(agent.capture(words[0]))


if __name__ == "__main__":
    main()
