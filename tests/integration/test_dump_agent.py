"""The agent by itself, loaded by the target and spoken to over its socket: what a dump rarely meets."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Python
from tide_decoder import read_recording

import control

WAIT = "\nimport sys\nprint('ready', flush=True)\nsys.stdin.read()\n"

Start = Callable[..., tuple[control.Agent, "control.Process"]]


@pytest.fixture
def agent_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """agent_in(python, code): a target that has printed `ready`, and the talk with the agent in it."""
    if not control.AGENT.exists():
        pytest.skip(f"{control.AGENT} is not there; set LOWTIDE_AGENT")
    # Where a chroot sees it, and another user.
    copy = Path(f"/tmp/lowtide-agent-{os.getpid()}.so")
    shutil.copy(control.AGENT, copy)
    monkeypatch.setattr(control, "AGENT", copy)
    opened = []

    def start(python: Python, code: str = "") -> tuple[control.Agent, control.Process]:
        context = control.agent_in(python.command(), code if "ready" in code else code + WAIT)
        agent, process = context.__enter__()
        opened.append(context)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return agent, process

    yield start
    for context in opened:
        context.__exit__(None, None, None)
    copy.unlink()


def test_it_walks_in_place_what_it_would_walk_in_a_fork(target_python: Python, agent_in: Start, tmp_path: Path) -> None:
    agent, process = agent_in(target_python, "rows = [[i] for i in range(1000)]")
    forked = agent.capture(tmp_path / "a.tide")
    in_place = agent.capture(tmp_path / "b.tide", control.IN_PLACE)
    assert (forked.status, forked.mode, forked.text) == (0, "fork", "")
    assert (in_place.status, in_place.mode) == (0, "in-place")
    assert "walked in place" in in_place.text
    assert abs(in_place.objects - forked.objects) < 100
    assert read_recording((tmp_path / "b.tide").read_bytes()).meta["mode"] == "in-place"
    agent.bye()
    out, err = process.communicate("")
    assert (process.returncode, out, err) == (0, "", "")


def test_where_fork_is_refused_it_walks_in_place_and_says_so(
    this_python: Python, agent_in: Start, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming a user with a limit of processes needs root")
    code = "import os, resource\nos.setuid(65534)\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))"
    agent, process = agent_in(this_python, code)
    refused = agent.capture(tmp_path / "t.tide", control.NO_IN_PLACE)
    assert refused.status < 0
    assert "refused to fork" in refused.text
    result = agent.capture(tmp_path / "t.tide")
    assert (result.status, result.mode) == (0, "in-place")
    assert "refused to fork" in result.text
    agent.bye()
    assert process.communicate("") == ("", "")


def test_a_walk_in_place_ends_with_its_time(this_python: Python, agent_in: Start, tmp_path: Path) -> None:
    agent, process = agent_in(this_python, "rows = [[str(i)] for i in range(2_000_000)]")
    result = agent.capture(tmp_path / "t.tide", control.IN_PLACE, timeout_ms=20)
    assert result.status < 0
    assert "--timeout" in result.text
    assert agent.capture(tmp_path / "t.tide").status == 0
    agent.bye()
    assert process.communicate("") == ("", "")


def begin(agent: control.Agent) -> int:
    """Where a capture can be read: until somebody does, its child waits for room."""
    reader, writer = os.pipe()
    agent.ask(writer)
    os.close(writer)
    return reader


def test_cancel_ends_a_walk_and_its_child(this_python: Python, agent_in: Start, tmp_path: Path) -> None:
    agent, process = agent_in(this_python, "rows = [[str(i)] for i in range(2_000_000)]")
    reader = begin(agent)
    agent.cancel()
    assert agent.result().text == "canceled"
    while os.read(reader, 1 << 16):
        pass  # the end comes: no child holds the other end
    os.close(reader)
    assert agent.capture(tmp_path / "t.tide").status == 0
    agent.bye()
    assert process.communicate("") == ("", "")


def test_a_talk_that_breaks_off_ends_the_agent_and_its_child(this_python: Python, agent_in: Start) -> None:
    agent, process = agent_in(this_python, "rows = [[str(i)] for i in range(2_000_000)]")
    reader = begin(agent)
    os.read(reader, 1)
    agent.sock.close()
    while os.read(reader, 1 << 16):
        pass
    os.close(reader)
    assert process.communicate("") == ("", "")
    assert process.returncode == 0


def test_a_child_whose_target_died_finishes_and_reports(this_python: Python, agent_in: Start, tmp_path: Path) -> None:
    agent, process = agent_in(this_python, "rows = [[str(i)] for i in range(2_000_000)]")
    reader = begin(agent)
    data = os.read(reader, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while piece := os.read(reader, 1 << 20):
        data += piece
    os.close(reader)
    assert agent.result().status == 0
    assert data.count(b"SECT") > 10
    assert agent.sock.recv(1) == b""


def test_a_child_whose_target_and_command_line_died_ends(this_python: Python, agent_in: Start) -> None:
    agent, process = agent_in(this_python, "rows = [[str(i)] for i in range(2_000_000)]")
    reader = begin(agent)
    os.read(reader, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    agent.sock.close()
    # Not read meanwhile: the child waits for room, and leaves at its next look around.
    poll = select.poll()
    poll.register(reader, 0)
    assert poll.poll(240_000), "the child is still there"
    os.close(reader)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"hello",
        control.packet(99),
        control.packet(control.RESULT, b"x"),
        control.packet(control.CAPTURE, struct.pack("<III", 0, 1000, 0)),  # without a descriptor
        b"LTCT" + b"\xff" * 60,
    ],
)
def test_a_stranger_on_the_socket_is_not_served(packet: bytes, this_python: Python, agent_in: Start) -> None:
    agent, process = agent_in(this_python)
    agent.sock.send(packet) if packet else agent.sock.shutdown(socket.SHUT_WR)
    while said := agent.sock.recv(4096):
        assert said[6] == control.PROGRESS
    assert process.communicate("") == ("", "")
    assert process.returncode == 0


def test_where_memory_is_short_it_is_one_line_and_the_target_goes_on(
    this_python: Python, agent_in: Start, tmp_path: Path
) -> None:
    code = "rows = [[str(i)] for i in range(300_000)]"
    agent, process = agent_in(this_python, code)
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    texts, enough = set(), 0
    for extra in range(0, 80 << 20, 64 << 10):
        limit = pages * resource.getpagesize() + extra
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        result = agent.capture(tmp_path / "t.tide")
        enough = 0 if result.status else enough + 1
        if result.status:
            texts.add(result.text)
        if enough == 5:
            break
    assert texts and enough
    assert all("memory" in text and "\n" not in text for text in texts), texts
    resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert agent.capture(tmp_path / "t.tide").status == 0
    agent.bye()
    assert process.communicate("") == ("", "")
