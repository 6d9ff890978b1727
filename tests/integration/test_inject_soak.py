"""Thousands of visits to targets that do everything at once, from several lowtides, some of which are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import pytest
from conftest import PATIENCE_S, Python, Spawn
from inject_tools import AGENT, DRIVER, REAPER, inject
from test_inject_calls import ENDS, calling
from test_inject_harm import TICKS, wait_until_clean
from test_inject_targets import BUSY, FRAME, MANY, mappings

pytestmark = pytest.mark.soak

VISITS = 1000


@pytest.mark.parametrize("what", BUSY)
def test_a_busy_target_takes_a_thousand_visits(target_python: Python, spawn: Spawn, what: str) -> None:
    setup, body = BUSY[what]
    target = spawn(target_python, FRAME.format(setup=setup, body=body))
    assert inject(target.pid).returncode == 0
    before = len(mappings(target))
    for _ in range(VISITS // 100):
        done = inject(target.pid, 100)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(mappings(target)) < before + 40  # its own heap may move
    assert target.finish() == (0, "fine\n"), target.stderr()


def test_thirty_threads_take_a_thousand_visits(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, MANY)
    for _ in range(VISITS // 50):
        done = inject(target.pid, 50)
        assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "fine\n"), target.stderr()


def test_lowtides_that_are_killed_at_random_do_no_harm(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, MANY)
    for _ in range(VISITS // 2):
        process = subprocess.Popen([DRIVER, str(target.pid), AGENT, "9"], stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.001, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert target.process.poll() is None, target.stderr()
    wait_until_clean(target.pid)
    assert target.finish() == (0, "fine\n"), target.stderr()


def test_no_step_at_which_lowtide_dies_harms_a_target(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, TICKS)
    for step in range(1, 300):
        subprocess.run([REAPER, str(step), DRIVER, str(target.pid), AGENT], timeout=PATIENCE_S)
        assert target.process.poll() is None, (step, target.stderr())
    wait_until_clean(target.pid)
    assert target.finish() == (0, "fine\n"), target.stderr()


@pytest.mark.parametrize("name", ENDS)
def test_no_step_at_which_lowtide_dies_changes_what_a_call_gives(name: str) -> None:
    may_be_interrupted = {"nanosleep", "poll", "cond_timed", "sem_timed", "epoll_timed", "epoll_pwait_timed"}
    may_be_interrupted |= {"recv_timed", "epoll", "sigwait", "semop"}  # as by any stop: signal(7)
    ends = {ENDS[name], "-1 EINTR"} if name in may_be_interrupted else {ENDS[name]}
    for step in range(1, 200, 5):
        with calling(name) as process:
            subprocess.run([REAPER, str(step), DRIVER, str(process.pid), AGENT], timeout=PATIENCE_S)
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert said.removesuffix("\n").removesuffix(" early") in {f"{name} {end}" for end in ends}, step
            assert process.returncode == 0
