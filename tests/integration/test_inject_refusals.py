"""What the injector refuses, in one line that says what to do, with the target as it was."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Python, Spawn
from inject_tools import AGENT, DRIVER, REAPER, inject

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def refusal(pid: int, **how: object) -> str:
    done = inject(pid, **how)  # type: ignore[arg-type]
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr.split(": ", 1)[1].rstrip("\n")


def wait_until_it_sleeps(pid: int) -> None:
    """Until its libraries are loaded, and it is in the call that it was started for: nanosleep or clock_nanosleep."""
    end = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] not in ("35", "230"):
        assert time.monotonic() < end
        time.sleep(0.005)


Build = Callable[..., subprocess.Popen[bytes]]

LOOKS = """
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
__attribute__((visibility("default"))) int Py_IsInitialized(void) { return 1; }
#ifdef VERSION
__attribute__((visibility("default"))) const unsigned long Py_Version = VERSION;
#endif
#ifdef FREE
__attribute__((visibility("default"))) void _Py_DecRefShared(void) {}
#endif
int main(void) {
#ifdef VFORK
    pid_t child = vfork();
    if (child == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); sleep(600); _exit(0); }
#endif
    write(1, "ready\\n", 6);
    sleep(600);
}
"""


@pytest.fixture
def build(tmp_path: Path, cc: str) -> Iterator[Build]:
    """build(*flags): a C program that looks somewhat like a Python, running."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, wait: bool = True) -> subprocess.Popen[bytes]:
        program = tmp_path / f"program{len(running)}"
        (tmp_path / "looks.c").write_text(LOOKS)
        done = subprocess.run([cc, "-w", "-rdynamic", tmp_path / "looks.c", "-o", program, *flags], capture_output=True)
        if done.returncode != 0:
            pytest.skip(f"this compiler cannot build with {flags}")
        running.append(subprocess.Popen([program], stdout=subprocess.PIPE))
        if wait:
            assert running[-1].stdout is not None and running[-1].stdout.readline() == b"ready\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_process_that_is_not_there() -> None:
    assert refusal(2**22 - 1) == "there is no process 4194303"
    assert "is not a process id" in refusal(0)
    assert "is not a process id" in refusal(-1)


def test_a_zombie() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "a zombie" in refusal(process.pid)
    assert process.wait() == 0


def test_a_thread_of_the_kernel() -> None:
    if Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text() == "kthreadd\n":
        assert "is a thread of the kernel" in refusal(2)


def test_a_thread_in_place_of_its_process(local_python: Python, spawn: Spawn) -> None:
    target = spawn(
        local_python, "import threading, time; threading.Thread(target=time.sleep, args=(999,), daemon=True).start()"
    )
    thread = next(int(p.name) for p in Path(f"/proc/{target.pid}/task").iterdir() if int(p.name) != target.pid)
    assert f"is a thread of process {target.pid}" in refusal(thread)


def test_a_stopped_process_stays_stopped(local_python: Python, spawn: Spawn) -> None:
    target = spawn(local_python, "")
    os.kill(target.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
    assert refusal(target.pid).endswith(f"is stopped; let it go on first: kill -CONT {target.pid}")
    assert Path(f"/proc/{target.pid}/stat").read_text().split(") ")[1][0] == "T"
    os.kill(target.pid, signal.SIGCONT)
    assert target.finish() == (0, "")


def test_a_process_that_is_traced(tmp_path: Path) -> None:
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
    # The reaper traces what it runs; this one never calls what it counts.
    tracer = subprocess.Popen([REAPER, "1", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert tracer.stdout is not None
    pid = int(tracer.stdout.readline())
    assert f"already traced by process {tracer.pid} (inject_reaper)" in refusal(pid)
    tracer.kill()
    tracer.communicate()


SECCOMP = """
import ctypes, struct
libc = ctypes.CDLL(None)
allow_all = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = struct.pack('HxxxxxxP', 1, ctypes.addressof(allow_all))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.c_char_p(program)) == 0
"""


def test_a_process_under_seccomp(local_python: Python, spawn: Spawn) -> None:
    target = spawn(local_python, SECCOMP)
    assert "runs under a seccomp filter" in refusal(target.pid)
    assert target.finish() == (0, "")


def test_a_process_that_is_no_python() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        wait_until_it_sleeps(process.pid)
        assert refusal(process.pid) == f"process {process.pid} (sleep) is not a Python"
        process.kill()


def test_an_older_a_newer_and_a_free_threaded_python(build: Build) -> None:
    assert "is a Python older than 3.11" in refusal(build().pid)
    assert "is a Python older than 3.11" in refusal(build("-DVERSION=0x030a0df0").pid)
    assert "is Python 3.16; this lowtide observes 3.11 to 3.15" in refusal(build("-DVERSION=0x031000f0").pid)
    assert "is a free-threaded Python" in refusal(build("-DVERSION=0x030d00f0", "-DFREE").pid)


def test_a_static_program(build: Build) -> None:
    assert "is linked statically" in refusal(build("-static").pid)
    assert "is linked statically" in refusal(build("-static-pie").pid)


def test_a_32_bit_program(build: Build) -> None:
    assert "is not an x86-64 program" in refusal(build("-m32").pid)


def test_a_program_on_musl(tmp_path: Path, cc: str) -> None:
    """musl is not on every machine; a file of its name does."""
    (tmp_path / "empty.c").write_text("int empty;")
    library = tmp_path / "ld-musl-x86_64.so.1"
    subprocess.run([cc, "-shared", "-fPIC", tmp_path / "empty.c", "-o", library], check=True)
    with subprocess.Popen(["sleep", "600"], env={"LD_PRELOAD": str(library)}) as process:
        wait_until_it_sleeps(process.pid)
        assert "runs on musl" in refusal(process.pid)
        process.kill()


def test_a_child_between_vfork_and_exec(build: Build) -> None:
    parent = build("-DVERSION=0x030d00f0", "-DVFORK", wait=False)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not children.read_text():
        time.sleep(0.01)
    assert f"shares the memory of its parent {parent.pid}" in refusal(int(children.read_text()))


def test_a_library_that_is_none_or_has_no_entry(local_python: Python, spawn: Spawn, tmp_path: Path, cc: str) -> None:
    target = spawn(local_python, "")
    (tmp_path / "text.so").write_text("not a library")
    assert "could not load the agent: " in refusal(target.pid, agent=tmp_path / "text.so")
    (tmp_path / "empty.c").write_text("int empty;")
    subprocess.run([cc, "-shared", "-fPIC", tmp_path / "empty.c", "-o", tmp_path / "empty.so"], check=True)
    assert "undefined symbol: agent_start" in refusal(target.pid, agent=tmp_path / "empty.so")
    assert "cannot read the agent" in refusal(target.pid, agent=tmp_path / "missing.so")
    assert "memfd:lowtide" not in Path(f"/proc/{target.pid}/maps").read_text()
    assert inject(target.pid).returncode == 0
    assert target.finish() == (0, "")


LINUX = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])


def test_a_process_without_free_file_descriptors(local_python: Python, spawn: Spawn) -> None:
    target = spawn(
        local_python,
        "import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\ntry:\n    while 1: os.dup(0)\nexcept OSError: pass\n",
    )
    assert inject(target.pid).returncode == 0 or LINUX < (6, 9)
    done = inject(target.pid, shared_files=True)
    assert done.returncode == 1
    assert "Too many open files" in done.stderr
    assert target.finish() == (0, "")


def test_a_process_that_may_start_no_thread(local_python: Python, spawn: Spawn) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1, 1))\n"
    target = spawn(local_python, limit)
    assert "cannot " in refusal(target.pid) and "Cannot allocate memory" in refusal(target.pid)
    assert target.finish()[0] == 0


@as_root
def test_a_stranger_is_told_whose_it_is(local_python: Python, spawn: Spawn, tmp_path: Path) -> None:
    target = spawn(local_python, "")
    place = Path(tempfile.mkdtemp(prefix="inject-", dir="/tmp"))
    place.chmod(0o755)
    try:
        driver, agent = place / DRIVER.name, place / AGENT.name
        shutil.copy(DRIVER, driver)
        shutil.copy(AGENT, agent)
        done = subprocess.run([driver, str(target.pid), agent], capture_output=True, text=True, user=65534, group=65534)
    finally:
        shutil.rmtree(place)
    assert done.returncode == 1
    assert f"not permitted to observe process {target.pid}" in done.stderr
    assert "it belongs to user 0; run lowtide as that user or as root" in done.stderr


def drop_ptrace() -> None:
    """As in a container: root, but without CAP_SYS_PTRACE from the next exec on."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(24, 19, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_PTRACE


@as_root
def test_root_without_the_capability_is_told_its_name(local_python: Python, spawn: Spawn) -> None:
    target = spawn(local_python, "")
    command = [str(part) for part in (DRIVER, target.pid, AGENT)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=drop_ptrace)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "though lowtide runs as root: the capability CAP_SYS_PTRACE is missing" in done.stderr
    assert target.finish() == (0, "")


@as_root
@pytest.mark.parametrize(("scope", "says"), [(3, "forbids it to everybody until the next boot"), (1, "ptrace_scope")])
def test_what_yama_forbids_is_told_with_the_mend(
    scope: int, says: str, local_python: Python, spawn: Spawn, tmp_path: Path
) -> None:
    """The words alone, on a machine without yama: its setting is put where it would be, and the refusal is another's."""
    target = spawn(local_python, "import ctypes, os\nctypes.CDLL(None).prctl(4, 0)\nos.setuid(65534)\n")
    place = Path(tempfile.mkdtemp(prefix="inject-", dir="/tmp"))
    place.chmod(0o755)
    try:
        driver, agent = (shutil.copy(tool, place / tool.name) for tool in (DRIVER, AGENT))
        yama = "/proc/sys/kernel/yama"
        run = f"mount -t tmpfs none /proc/sys/kernel && mkdir {yama} && echo {scope} > {yama}/ptrace_scope && "
        run += f"exec setpriv --reuid 65534 --regid 65534 --clear-groups {driver} {target.pid} {agent}"
        done = subprocess.run(["unshare", "-m", "sh", "-c", run], capture_output=True, text=True)
    finally:
        shutil.rmtree(place)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"not permitted to observe process {target.pid}" in done.stderr
    assert says in done.stderr
    assert target.finish() == (0, "")


@as_root
def test_root_reaches_other_users_and_the_undumpable(spawn: Spawn, target_python: Python) -> None:
    target = spawn(target_python, "import ctypes, os\nos.setuid(65534)\nassert ctypes.CDLL(None).prctl(4, 0) == 0\n")
    done = inject(target.pid, 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, ""), target.stderr()


@as_root
def test_a_target_in_namespaces_of_its_own(local_python: Python, tmp_path: Path) -> None:
    """PID, mount, network and user-visible /proc differ, and there the same thread has another number."""
    code = "import sys, time; print('ready', flush=True); sys.stdin.read(); print('fine')"
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--net",
        "--ipc",
        "--uts",
        local_python.executable,
        "-c",
        code,
    ]
    if subprocess.run([*command[:-3], "true"], capture_output=True).returncode != 0:
        pytest.skip("no namespaces here")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    assert "NSpid:\t" in Path(f"/proc/{pid}/status").read_text()
    done = inject(pid, 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert process.communicate()[0] == "fine\n"
    assert process.returncode == 0


def in_a_root_without_proc(python: Python, first: str) -> subprocess.Popen[str]:
    if python.root is None:
        pytest.skip("only the chroot's Pythons have a root of their own")
    code = f"import os, sys; {first}; print('ready', flush=True); sys.stdin.read(); print(os.getcwd())"
    command = ["chroot", str(python.root), python.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@as_root
def test_a_target_in_a_root_without_proc(target_python: Python) -> None:
    process = in_a_root_without_proc(target_python, "os.chdir('/usr')")
    for _ in range(4):
        done = inject(process.pid, 3)
        assert (done.returncode, done.stderr) == (0, "")
    assert process.communicate(timeout=PATIENCE_S)[0] == "/usr\n"
    assert process.returncode == 0


@as_root
def test_a_target_without_proc_that_may_not_look_into_another_is_refused(target_python: Python) -> None:
    process = in_a_root_without_proc(target_python, "os.setuid(65534)")
    for _ in range(2):
        done = inject(process.pid, 1)
        assert done.returncode != 0
        assert "has no /proc in its root, and may not look into another" in done.stderr
    assert process.communicate(timeout=PATIENCE_S)[0] == "/\n"
    assert process.returncode == 0


def test_the_process_that_started_lowtide(local_python: Python, spawn: Spawn) -> None:
    """It waits for lowtide meanwhile, and that is no obstacle."""
    code = f"import os, subprocess\nprint('ready', flush=True)\nsubprocess.run({[str(DRIVER)]!r} + [str(os.getpid()), {str(AGENT)!r}], check=True)\nprint('fine')"
    target = spawn(local_python, code)
    assert target.finish() == (0, "fine\n"), target.stderr()
