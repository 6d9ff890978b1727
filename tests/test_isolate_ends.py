"""How pools and their processes begin and end: initializers, age, cancelled calls, and what kills from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from decimal import Decimal
from pathlib import Path
from typing import Any

import lowtide
import pytest

_begun: list[tuple[object, ...]] = []


def begin(*args: object) -> None:
    _begun.append((os.getpid(), *args))


def begun() -> tuple[int, list[tuple[object, ...]]]:
    return os.getpid(), list(_begun)


def pid() -> int:
    return os.getpid()


def wait_for(path: str) -> int:
    """Says that it runs, by a file; and ends when that file is gone."""
    Path(path).write_text("")
    while Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


def fill_behind(group: str, count: int) -> int:
    """Goes into a control group, if it is to, and takes that many bytes there."""
    if group:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    return len([b"x" * (1 << 20) for _ in range(count >> 20)])


@lowtide.isolate
def isolated_pid() -> int:
    return os.getpid()


def until_exists(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, "the call never began"
        time.sleep(0.005)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def is_gone(process: int) -> bool:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_workers": "x"}, TypeError),
        ({"max_workers": 1.5}, TypeError),
        ({"max_workers": 0}, ValueError),
        ({"max_tasks": "x"}, TypeError),
        ({"max_tasks": 0}, ValueError),
        ({"max_age": "x"}, TypeError),
        ({"max_age": -1}, ValueError),
        ({"max_growth": 1.5}, TypeError),
        ({"timeout": "x"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"memory": 0}, ValueError),
        ({"memory": "0 MiB"}, ValueError),
        ({"memory": 1.5}, TypeError),
        ({"start_method": 3}, ValueError),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line_by_its_name(
    given: dict[str, Any], error: type[Exception]
) -> None:
    (name, value), *_ = given.items()
    line = rf"^{name} must be .*, not {re.escape(repr(value))}$"
    with pytest.raises(error, match=line):
        lowtide.Pool(**given)
    if name in ("memory", "timeout", "start_method"):
        with pytest.raises(error, match=line):
            lowtide.isolate(pid, **given)


def test_calls_that_have_not_begun_are_cancelled_and_the_one_at_work_is_finished(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    pool = lowtide.Pool(1)
    at_work = pool.submit(wait_for, str(busy))
    until_exists(busy)
    waiting = [pool.submit(pid) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result(60)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pid)
    assert not at_work.done()
    busy.unlink()
    worker = at_work.result(120)
    pool.shutdown()
    assert is_gone(worker)


def test_a_future_cancelled_by_itself_is_passed_over(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    with lowtide.Pool(1) as pool:
        at_work = pool.submit(wait_for, str(busy))
        until_exists(busy)
        passed_over, kept = pool.submit(wait_for, str(tmp_path / "never")), pool.submit(pid)
        assert passed_over.cancel()
        assert not at_work.cancel()
        busy.unlink()
        assert kept.result(120) == at_work.result(120)
    assert not (tmp_path / "never").exists()


def test_a_worker_past_its_age_takes_no_further_call() -> None:
    with lowtide.Pool(1, max_age=3600) as pool:
        first = pool.submit(pid).result(120)
        assert pool.submit(pid).result(120) == first
        pool._state.max_age = 1e-6
        second = pool.submit(pid).result(120)
        assert second != first
        assert pool.submit(pid).result(120) not in (first, second)
        assert is_gone(first)


def test_each_worker_begins_with_the_initializer_and_its_arguments_once() -> None:
    with lowtide.Pool(1, initializer=begin, initargs=("data", [1, 2]), max_tasks=2) as pool:
        said = [pool.submit(begun).result(120) for _ in range(4)]
    assert len({worker for worker, _ in said}) == 2
    assert all(calls == [(worker, "data", [1, 2])] for worker, calls in said)
    assert _begun == []


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_pool_goes_on_when_the_process_that_its_workers_are_forked_from_is_killed(
    method: str, tmp_path: Path
) -> None:
    busy = tmp_path / "busy"
    with lowtide.Pool(1, start_method=method) as pool:
        at_work = pool.submit(wait_for, str(busy))
        until_exists(busy)
        (worker,) = pool._rss_bytes()
        zygote = parent_of(worker)
        assert zygote not in (os.getpid(), 1)
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(lowtide.WorkerDied, match=f"wait_for.*pid {worker}.* has ended"):
            at_work.result(120)
        assert is_gone(zygote)
        assert is_gone(worker)  # nobody is left to see to it
        again = pool.submit(pid).result(120)
        assert again not in (worker, os.getpid())
    assert isolated_pid() not in (worker, os.getpid())


def test_a_pool_goes_on_when_that_process_is_killed_while_nothing_runs() -> None:
    with lowtide.Pool(1) as pool:
        worker = pool.submit(pid).result(120)
        os.kill(parent_of(worker), signal.SIGKILL)
        assert is_gone(worker)
        assert pool.submit(pid).result(120) != worker


def remove_group(group: Path) -> None:
    """The kernel may still be at work on the last process of it."""
    end = time.monotonic() + 120
    while group.exists():
        with contextlib.suppress(OSError):
            group.rmdir()
        assert time.monotonic() < end, (group / "cgroup.procs").read_text()
        time.sleep(0.01)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory control group of 64 MiB, of version 2 or 1."""
    for root, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = Path(root) / f"lowtide-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text(str(64 << 20))
                for swap in ("memory.swap.max", "memory.swappiness"):
                    with contextlib.suppress(OSError):
                        (group / swap).write_text("0")
                yield group
                remove_group(group)
                return
            group.rmdir()
    pytest.skip("this machine grants no memory cgroup")


def test_one_that_the_kernel_killed_for_want_of_memory_is_told_from_one_over_its_own_bound(small_group: Path) -> None:
    with lowtide.Pool(1, memory="2GiB") as pool:
        with pytest.raises(lowtide.WorkerDied, match="SIGKILL, most likely by the kernel for want of memory") as died:
            pool.submit(fill_behind, str(small_group), 1 << 30).result(120)
        assert died.value.signal == signal.SIGKILL
    with lowtide.Pool(1, memory="48MiB") as pool:
        with pytest.raises(lowtide.IsolatedMemoryError, match="more than its 48 MiB") as told:
            pool.submit(fill_behind, "", 1 << 30).result(120)
        assert told.value.limit_bytes == 48 << 20


THREADED = """
import threading
asked, answered = threading.Semaphore(0), threading.Semaphore(0)
def answer():
    while True:
        asked.acquire()
        answered.release()
threading.Thread(target=answer, daemon=True).start()
"""
PROGRAM = """
import json, os, lowtide, threaded
def ask():
    threaded.asked.release()
    answered = threaded.answered.acquire(timeout=60)
    with open(f"/proc/{os.getppid()}/status") as file:
        threads = next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
    return answered, threads
if __name__ == "__main__":
    with lowtide.Pool(2, max_tasks=1) as pool:
        told = [pool.submit(ask).result() for _ in range(3)]
    print(json.dumps([*told, lowtide.isolate(ask)(), lowtide.isolate(ask)()]))
"""


def test_where_an_import_leaves_a_thread_behind_children_import_by_themselves_from_a_parent_without(
    tmp_path: Path,
) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.stderr == ""
    assert json.loads(ran.stdout) == [[True, 1]] * 5  # its thread is alive in the child, and none where it was forked


@pytest.mark.parametrize("seconds", [float("inf"), 1e10, 30 * 86400, Decimal("1e3")])
def test_a_timeout_may_be_any_number_of_seconds(seconds: Any) -> None:
    assert lowtide.isolate(os.getpid, timeout=seconds)() != os.getpid()
    with lowtide.Pool(max_workers=1, timeout=seconds, max_age=seconds) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


def test_a_program_ends_without_a_warning_of_what_is_still_open() -> None:
    program = "import lowtide, os; print(lowtide.isolate(os.getpid)() != os.getpid())"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
