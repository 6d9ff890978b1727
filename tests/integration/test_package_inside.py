"""The package from inside a program: snapshot, why, retained, and `python -m lowtide`."""

from __future__ import annotations

import ast
import errno
import gc
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Python
from tide_decoder import read_recording

REPOSITORY = Path(__file__).parents[2]


def package_paths() -> list[Path]:
    """Where the built package may be: the build tree beside the executable under test, or installed."""
    exe = Path(os.environ.get("LOWTIDE_EXE", REPOSITORY / "build/bin/lowtide"))
    return [
        exe.parents[1] / "python/lowtide/_core.abi3.so",
        Path(sysconfig.get_path("platlib")) / "lowtide/_core.abi3.so",
    ]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources with the extension as it was built, for any Python's PYTHONPATH."""
    built = next((path for path in package_paths() if path.exists()), None)
    if built is None:
        pytest.skip("lowtide._core is not built: make build")
    place = tmp_path_factory.mktemp("package")
    (place / "lowtide").mkdir()
    for source in (REPOSITORY / "python/lowtide").iterdir():
        if source.is_file():
            (place / "lowtide" / source.name).symlink_to(source)
    for extension in {built, *built.parent.glob("*.so")}:
        target = place / "lowtide" / extension.name
        if not target.exists() and extension.name != "lowtide-agent.so":
            target.symlink_to(extension)
    return place


def inside(python: Python, package: Path, exe: Path, code: str, cwd: Path) -> object:
    """Runs code that prints one literal."""
    env = {**os.environ, "PYTHONPATH": str(package), "LOWTIDE_EXE": str(exe)}
    done = subprocess.run(
        python.command("-c", code), env=env, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    return ast.literal_eval(done.stdout)


def test_a_snapshot_is_a_whole_recording_of_the_caller(
    local_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    code = "mark = ['here']\nimport lowtide\nprint(tuple(lowtide.snapshot('t.tide')))"
    path, objects, references, size, pause = inside(local_python, package, lowtide_exe, code, tmp_path)  # type: ignore[misc]
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    assert (path, objects, size) == ("t.tide", len(recording.objects), (tmp_path / "t.tide").stat().st_size)
    assert references == recording.references
    assert pause > 0
    assert "mark" in str(recording.objects)
    assert os.listdir(tmp_path) == ["t.tide"]


def test_why_names_the_paths_and_not_the_call(
    local_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    code = (
        "import lowtide\nclass C: pass\ncache = {'u17': C()}\ncache['u17'].history = [0, 1, 2, ['x']]\n"
        "def f():\n    local = ['y']\n    return lowtide.why(local)\n"
        "print([lowtide.why(cache['u17'].history[3]), f()])"
    )
    assert inside(local_python, package, lowtide_exe, code, tmp_path) == [
        ["cache['u17'].history[3]"],
        ["thread MainThread > f() > local"],
    ]


def test_retained_is_what_would_go(local_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path) -> None:
    code = (
        "import lowtide, sys\nrows = [bytes(10_000) for _ in range(10)]\nshared = bytes(10_000)\n"
        "both = [shared, bytes(500)]\n"
        "print([lowtide.retained(rows) - sum(map(sys.getsizeof, rows)) - sys.getsizeof(rows),"
        " lowtide.retained(both) < 10_000, lowtide.retained(shared) - sys.getsizeof(shared)])"
    )
    rest, without_shared, own = inside(local_python, package, lowtide_exe, code, tmp_path)  # type: ignore[misc]
    assert 0 <= rest < 100  # the GC head and the room that a list keeps
    assert without_shared
    assert own == 0


@pytest.fixture
def lowtide_package(package: Path, lowtide_exe: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("LOWTIDE_EXE", str(lowtide_exe))
    for name in [name for name in sys.modules if name.split(".")[0] == "lowtide"]:
        monkeypatch.delitem(sys.modules, name)
    import lowtide

    return lowtide


def test_errors_are_those_a_python_user_expects(lowtide_package: object, tmp_path: Path) -> None:
    import lowtide

    with pytest.raises(FileNotFoundError) as error:
        lowtide.snapshot(tmp_path / "missing/t.tide")
    assert error.value.filename == str(tmp_path / "missing/t.tide")
    with pytest.raises(IsADirectoryError):
        lowtide.snapshot(tmp_path)
    with pytest.raises(OSError, match="No space left") as full:
        lowtide.snapshot("/dev/full")
    assert full.value.filename == "/dev/full"
    with pytest.raises(ValueError, match="paths"):
        lowtide.why(5, paths=0)
    with pytest.raises(TypeError):
        lowtide.snapshot(5)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_other_threads_run_on_and_children_are_left_alone(lowtide_package: object, tmp_path: Path) -> None:
    import lowtide

    ballast = [[i] for i in range(300_000)]
    ticks, stop = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    descriptors = os.listdir("/proc/self/fd")
    for _ in range(3):
        lowtide.snapshot(tmp_path / "t.tide")
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    seen = ticks
    stop.set()
    thread.join()
    assert seen > 3
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)  # what other tests left may go meanwhile
    assert len(ballast) == 300_000


def test_two_snapshots_at_once_are_one_and_an_error(lowtide_package: object, tmp_path: Path) -> None:
    import lowtide

    outcomes = []

    def one(name: str) -> None:
        try:
            lowtide.snapshot(tmp_path / name)
            outcomes.append("done")
        except RuntimeError:
            outcomes.append("busy")

    threads = [threading.Thread(target=one, args=(f"{i}.tide",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert outcomes.count("done") == len(os.listdir(tmp_path)) >= 1


def test_ctrl_c_gives_a_snapshot_up(this_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, threading, lowtide\n"
        "ballast = [[str(i)] for i in range(1_500_000)]\n"
        "interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))\n"
        "try: interrupt.start(); lowtide.snapshot('t.tide')\n"
        "except KeyboardInterrupt: print(['interrupted', os.listdir('.')])\n"
    )
    assert inside(this_python, package, lowtide_exe, code, tmp_path) == ["interrupted", []]


WRITERS = ["lowtide.snapshot(name)", "lowtide.start(); lowtide.stop(name)"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_has_no_name_until_it_is_whole(
    write: str, local_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    code = f"""
import lowtide, lowtide._core, os, signal
name = "t.tide"
open(f"t.tide.{{os.getpid()}}.part", "w").write("another's")
real = lowtide._core.capture
def capture(fd, values):
    real(fd, values)
    files = os.listdir(".")
    print(files, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
lowtide._core.capture = capture
try: {write}
finally: print("never")
"""
    env = {**os.environ, "PYTHONPATH": str(package), "LOWTIDE_EXE": str(lowtide_exe), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(local_python.command("-c", code), env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (there,) = ast.literal_eval(done.stdout)
    assert os.listdir(tmp_path) == [there] and (tmp_path / there).read_text() == "another's"


@pytest.mark.parametrize("tmpfiles", [True, False])
@pytest.mark.parametrize("write", WRITERS)
def test_every_name_that_the_file_system_takes_is_one_for_a_recording(
    write: str, tmpfiles: bool, this_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    code = f"""
import errno, lowtide, os
if not {tmpfiles}:
    real = os.open
    def open(path, flags, *more, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE: raise OSError(errno.EOPNOTSUPP, "none")
        return real(path, flags, *more, **named)
    os.open = open
for name in "a" * 100, "a" * 255, "ß" * 127: {write}
for name in "a" * 256, "missing/t.tide", "/proc/t.tide":
    try: {write}
    except OSError as e: print((e.errno, e.filename == name), end=",")
    try: lowtide.stop("kept")
    except RuntimeError: pass
"""
    found = inside(this_python, package, lowtide_exe, code, tmp_path)
    assert found == ((errno.ENAMETOOLONG, True), (errno.ENOENT, True), (errno.ENOENT, True))
    names = {"a" * 100, "a" * 255, "ß" * 127}
    assert set(os.listdir(tmp_path)) - {"kept"} == names
    for name in names:
        assert read_recording((tmp_path / name).read_bytes()).objects


def test_a_snapshot_from_a_finalizer_in_a_collection_works(lowtide_package: object, tmp_path: Path) -> None:
    import lowtide

    class Node:
        def __del__(self) -> None:
            lowtide.snapshot(tmp_path / "t.tide")

    node = Node()
    node.me = node  # type: ignore[attr-defined]
    del node
    gc.collect()
    assert read_recording((tmp_path / "t.tide").read_bytes()).reached is not None


def test_python_m_lowtide_is_the_executable(package: Path, lowtide_exe: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(package), "LOWTIDE_EXE": str(lowtide_exe)}
    command = [sys.executable, "-m", "lowtide"]
    done = subprocess.run([*command, "--version"], env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("lowtide 0.")
    done = subprocess.run([*command, "dump"], env=env, capture_output=True, text=True)
    assert done.returncode == 2


def test_the_package_is_light_to_import(package: Path) -> None:
    code = "import sys; before = set(sys.modules); import lowtide; print(sorted(set(sys.modules) - before))"
    env = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert "numpy" not in done.stdout
