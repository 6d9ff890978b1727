"""A borrowed thread's system calls and registers are what they would have been.

The target (tests/unit/inject_calls.c) has one thread and waits in one call; no call may see EINTR
that had no signal of its own, nor end before its time, nor may a register change.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import PATIENCE_S
from inject_tools import AGENT, CALLS, DRIVER, REAPER, inject

ENDS = {
    "nanosleep": "0 0",
    "clock_nanosleep": "0 0",
    "poll": "0 0",
    "ppoll": "0 0",
    "select": "0 0",
    "epoll_timed": "0 0",
    "epoll_pwait_timed": "0 0",
    "cond_timed": "-1 ETIMEDOUT",
    "sem_timed": "-1 ETIMEDOUT",
    "wait4": "7 0",
    "recv_timed": "-1 EAGAIN",
    "read": "1 0",
    "epoll": "1 0",
    "accept": "0 0",
    "sigwait": "12 0",
    "pause": "-1 EINTR",
    "sigsuspend": "-1 EINTR",
    "semop": "0 0",
    "msgrcv": "1 0",
    "flock": "0 0",
    "general_registers": "0 0",
    "vector_registers": "0 0",
    "red_zone": "0 0",
    "errno": "0 0",
}


@contextmanager
def calling(name: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([CALLS, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("name", ENDS)
def test_what_an_interrupted_call_gives_is_what_it_gives_undisturbed(name: str) -> None:
    with calling(name) as process:
        done = inject(process.pid, 12)
        said, _ = process.communicate(timeout=PATIENCE_S)
        # On a slow machine the call may have ended before the last of the visits.
        assert done.returncode == 0 or f"{process.pid}" in done.stderr
        assert said == f"{name} {ENDS[name]}\n"
        assert process.returncode == 0


@pytest.mark.parametrize("name", ["general_registers", "vector_registers", "red_zone", "errno", "read", "nanosleep"])
def test_a_thread_finds_its_way_back_when_lowtide_is_killed_at_any_step(name: str) -> None:
    """A call that only the tracer could have restarted gives EINTR then, as after a signal."""
    allowed = [ENDS[name], "-1 EINTR"] if name == "nanosleep" else [ENDS[name]]
    ends = {f"{name} {end}{early}" for end in allowed for early in ("", " early")}
    for step in range(3, 160, 23):
        with calling(name) as process:
            subprocess.run([REAPER, str(step), DRIVER, str(process.pid), AGENT], timeout=PATIENCE_S)
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert said.rstrip() in ends, step
            assert process.returncode == 0
