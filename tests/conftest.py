"""What the tests in Python stand on: every Python of this machine, targets, the executable.

``target_python`` runs a test once for each supported Python that is here: pyenv's, Debian's own,
and those of a Debian sid in a chroot (tools/get_sid.sh makes it), release and debug builds. One
that is missing is a skip that names it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test is to fail because a machine is busy: neither an example that took 200 ms, nor data that took long to make.
settings.register_profile("lowtide", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lowtide")

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
# Of reports: pytest-xdist sets 80, a terminal what it has.
os.environ["COLUMNS"] = "100"
SID = Path(os.environ.get("LOWTIDE_SID", "/opt/lowtide/sid"))
EXECUTABLE = Path(os.environ.get("LOWTIDE_EXE", REPOSITORY / "build/bin/lowtide"))
MINORS = (11, 12, 13, 14, 15)

# For what happens within a second on an idle machine: no test is to fail because a machine is busy.
PATIENCE_S = 240.0

# In a mount namespace of its own: /proc and /tmp of this machine, and tests/ as /mnt, so that scripts
# can be run. The agent's file is not to be seen there, as in a container. exec all the way: the
# target has the PID of the process that was started.
ENTER = """
mount --rbind /proc "$0/proc" && mount --bind /tmp "$0/tmp" && mount --bind "$1" "$0/mnt" ||
    exit 125
root=$0; shift; exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Python:
    """A CPython that a target can run on."""

    name: str
    minor: int
    executable: str
    debug: bool = False
    root: Path | None = None  # it lives in this chroot

    def command(self, *args: str | os.PathLike[str]) -> list[str]:
        words = [self.executable, *(os.fspath(arg) for arg in args)]
        if self.root is None:
            return words
        words = [re.sub(rf"^{re.escape(str(TESTS))}(?=/|$)", "/mnt", word) for word in words]
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        shell = ["sh", "-c", ENTER, str(self.root), str(TESTS)]
        return ["unshare", *user, "--mount", *shell, *words]

    def __str__(self) -> str:
        return self.name


def can_enter_sid() -> bool:
    probe = Python("probe", 0, "/bin/true", root=SID)
    return subprocess.run(probe.command(), capture_output=True).returncode == 0


@functools.cache
def all_pythons() -> list[Python]:
    """Every supported Python here, by version, without free-threaded builds: those are refused."""
    found: list[Python] = []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    sid = can_enter_sid()
    for minor in MINORS:
        name, exe = f"3.{minor}", f"/usr/bin/python3.{minor}"
        versions = [path for path in pyenv.glob(f"versions/{name}.*") if path.name[-1].isdigit()]
        if versions:
            newest = max(versions, key=lambda path: int(path.name.split(".")[2]))
            found.append(Python(f"{name}-pyenv", minor, f"{newest}/bin/python{name}"))
        for end, debug in (("", False), ("d", True)):
            if Path(exe + end).exists():
                found.append(Python(f"{name}{end}-usr", minor, exe + end, debug))
            if sid and Path(f"{SID}{exe}{end}").exists():
                found.append(Python(f"{name}{end}-sid", minor, exe + end, debug, SID))
    return found


def missing_versions() -> list[str]:
    here = {python.minor for python in all_pythons()}
    why = f"{SID} has none or cannot be entered" if SID.exists() else "tools/get_sid.sh brings it"
    return [f"python 3.{m} is not on this machine: {why}" for m in MINORS if m not in here]


def pytest_configure() -> None:
    """What runs in the background or under nohup ignores these signals, and all that it starts would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def pytest_report_header() -> list[str]:
    return [f"targets: {', '.join(map(str, all_pythons()))}", *missing_versions()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """target_python: every Python; local_python: those outside the chroot, which see all files."""
    for fixture in sorted({"target_python", "local_python"} & set(metafunc.fixturenames)):
        pythons = [p for p in all_pythons() if fixture == "target_python" or p.root is None]
        params = [pytest.param(python, id=python.name) for python in pythons]
        if fixture == "target_python":
            for reason in missing_versions():
                skip = pytest.mark.skip(reason=reason)
                params.append(pytest.param(None, id=f"{reason.split()[1]}-missing", marks=skip))
        metafunc.parametrize(fixture, params)


@dataclass
class Target:
    """A running program. `pid` is its own in this PID namespace."""

    process: subprocess.Popen[bytes]
    python: Python
    errors: Path
    head: list[str] = field(default_factory=list)  # what it said before `ready`

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, line: str = "ready", timeout: float = PATIENCE_S) -> None:
        """Reads its standard output up to that line."""
        assert self.process.stdout is not None
        out, said, end = self.process.stdout.fileno(), b"", time.monotonic() + timeout
        while not said.endswith(b"\n" + line.encode() + b"\n") and said != line.encode() + b"\n":
            readable = select.select([out], [], [], max(0.0, end - time.monotonic()))[0]
            byte = os.read(out, 1) if readable else b""
            if not byte:
                how = "ended" if readable else f"went {timeout} s"
                raise RuntimeError(f"the target {how} without {line!r}: {said!r} {self.stderr()}")
            said += byte
        self.head += said.decode(errors="surrogateescape").splitlines()[:-1]

    def wait_until_it_reads(self) -> None:
        """Until its main thread waits in a read of its standard input: it says that it is ready a moment before that."""
        call, end = Path(f"/proc/{self.pid}/syscall"), time.monotonic() + PATIENCE_S
        while call.read_text().split()[:2] != ["0", "0x0"]:
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.005)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = PATIENCE_S) -> tuple[int, str]:
        """Ends its standard input and waits: its exit status, and what else it printed."""
        out, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.decode(errors="surrogateescape")

    def stderr(self) -> str:
        return self.errors.read_text(errors="surrogateescape")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def allow_tracing() -> None:
    """Where yama lets only parents trace, a target says that any process of its user may."""
    import ctypes

    PR_SET_PTRACER = 0x59616D61
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


def yama_restricts() -> bool:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return scope.exists() and scope.read_text().strip() == "1" and os.geteuid() != 0


# Waits, asleep, until its standard input ends; then the program ends by itself with status 0.
WAIT = "\nprint('ready', flush=True)\nimport sys\nsys.stdin.read()\n"

Spawn = Callable[..., Target]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """spawn(python, program, *args): starts a target, returns it once it has printed `ready`.

    The program is code, or a Path to a file. Code that does not speak of `ready` itself is made to
    say it at its end, and to wait there. All targets are killed when the test ends.
    """
    targets: list[Target] = []

    def start(
        python: Python,
        program: str | Path,
        *args: str,
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        ready: bool = True,
    ) -> Target:
        if isinstance(program, Path):
            run = [str(program)]
        else:
            run = ["-c", program if "ready" in program else program + WAIT]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        errors = tmp_path / f"target-{len(targets)}.err"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                python.command(*flags, *run, *args),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**clean, **(env or {})},
                preexec_fn=allow_tracing if yama_restricts() else None,
            )
        target = Target(process, python, errors)
        targets.append(target)
        if ready:
            target.wait_for("ready")
        return target

    yield start
    for target in targets:
        target.kill()


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


Lowtide = Callable[..., Result]


@pytest.fixture(scope="session")
def lowtide_exe() -> Path:
    """The executable under test: the build tree's, or $LOWTIDE_EXE."""
    if not EXECUTABLE.exists():
        pytest.fail(f"{EXECUTABLE} is not there: run make build, or set LOWTIDE_EXE")
    return EXECUTABLE


@pytest.fixture(scope="session")
def lowtide(lowtide_exe: Path) -> Lowtide:
    """lowtide(*args): runs the executable to its end; one that takes too long is killed."""

    def run(
        *args: object,
        timeout: float = PATIENCE_S,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        input: str = "",
    ) -> Result:
        done = subprocess.run(
            [lowtide_exe, *map(str, args)],
            input=input,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def this_python() -> Python:
    """The Python that runs the tests, with NumPy, pandas and pyarrow, as a target."""
    return Python("here", sys.version_info[1], sys.executable)


@pytest.fixture(scope="session")
def cc() -> str:
    """A C compiler, for tests that build a program or an extension of their own."""
    path = shutil.which("cc")
    assert path, "tools/setup.sh installs a C compiler"
    return path
