"""`lowtide run`: the program runs as it would without, and its heap is reported at its end."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, all_pythons
from tide_decoder import read_recording

APP = """
import sys
cache = {str(i): [i] * 10 for i in range(20_000)}
print("out", sys.argv[1:])
print("err", file=sys.stderr)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def last_line(stderr: str) -> str:
    return stderr.splitlines()[-1]


def test_the_report_follows_the_programs_output(app: Path, local_python: Python, lowtide: Lowtide) -> None:
    done = lowtide("run", "--python", local_python.executable, app, "a", "-o", "b")
    assert (done.status, done.stderr) == (0, "err\n")
    assert done.stdout.startswith("out ['a', '-o', 'b']\n")
    assert "TYPES" in done.stdout


def test_the_recording_is_kept_where_o_says(app: Path, lowtide: Lowtide, tmp_path: Path) -> None:
    done = lowtide("run", "-o", tmp_path / "t.tide", "--no-report", app)
    assert (done.status, done.stdout, done.stderr) == (0, "out []\n", "err\n")
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    assert recording.reached is not None
    assert recording.meta["command"].split("\x1f")[1] == str(app)
    assert sorted(os.listdir(tmp_path)) == ["app.py", "t.tide"]


def test_json_is_one_object_behind_the_programs_output(app: Path, lowtide: Lowtide) -> None:
    done = lowtide("run", "--json", app)
    head, _, tail = done.stdout.partition("\n")
    assert head == "out []"
    assert json.loads(tail)["schema"] == 1


@pytest.mark.parametrize(
    "code, status, stderr",
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no"),
        ("raise KeyError(5)", 1, "KeyError: 5"),
        ("import os; os._exit(5)", 5, ""),
        ("import os, threading\nthreading.Thread(target=lambda: os._exit(6)).start()", 6, ""),
        ("import threading\nthreading.Thread(target=lambda: print('late')).start()", 0, ""),
    ],
)
def test_the_heap_is_captured_however_python_ends(
    code: str, status: int, stderr: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(f"mark = 'still here'\n{code}\n")
    done = lowtide("run", "-o", tmp_path / "t.tide", "--no-report", tmp_path / "app.py")
    assert done.status == status
    assert done.stderr.strip().endswith(stderr)
    assert "mark" in str(read_recording((tmp_path / "t.tide").read_bytes()).objects)


@pytest.mark.parametrize(
    "code, status, words",
    [
        ("import os; os.execv('/bin/sh', ['sh', '-c', 'exit 6'])", 6, "exec"),
        ("import os; os.kill(os.getpid(), 9)", -9, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", -15, "SIGTERM"),
        ("import os; os.abort()", -6, "SIGABRT"),
    ],
)
def test_an_end_without_exit_functions_is_one_line(
    code: str, status: int, words: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(code)
    done = lowtide("run", "-o", tmp_path / "t.tide", "--no-profile", tmp_path / "app.py")
    assert (done.status, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lowtide: no heap was captured")
    assert words in done.stderr
    assert os.listdir(tmp_path) == ["app.py"]


def test_a_command_that_is_not_there_is_as_in_a_shell(lowtide: Lowtide, tmp_path: Path) -> None:
    done = lowtide("run", "--", "no-such-command")
    assert (done.status, done.stdout) == (127, "")
    assert done.stderr == "lowtide: cannot run no-such-command: No such file or directory\n"
    done = lowtide("run", "--", tmp_path)
    assert done.status == 126


def test_a_script_that_is_not_there_is_pythons_to_say(lowtide: Lowtide) -> None:
    done = lowtide("run", "no-such.py")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "no-such.py" in done.stderr


def test_what_is_no_python_runs_and_is_told_about(lowtide: Lowtide) -> None:
    done = lowtide("run", "--", "sh", "-c", "echo hello; exit 4")
    assert (done.status, done.stdout) == (4, "hello\n")
    assert "did not run as a Python program" in last_line(done.stderr)


def test_a_python_that_cannot_see_lowtide_is_told_with_what_reaches_it(lowtide: Lowtide) -> None:
    python = next((one for one in all_pythons() if one.root), None)
    if python is None or os.geteuid():
        pytest.skip("no Python with a root of its own, or nobody may go there")
    done = lowtide("run", "--", "chroot", python.root, python.executable, "-c", "print('here'); exit(3)")
    assert (done.status, done.stdout) == (3, "here\n")
    assert done.stderr.count("\n") == 1
    assert "lowtide-agent.so is to be seen (in a chroot or container use lowtide attach PID)" in done.stderr


def test_a_python_that_is_not_supported_is_named(lowtide: Lowtide, app: Path) -> None:
    old = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3"))
    if not old:
        pytest.skip("no Python 3.10 here")
    done = lowtide("run", "--python", old[0], app)
    assert (done.status, done.stdout) == (0, "out []\n")
    assert "3.10" in last_line(done.stderr)


def test_a_module_and_a_command_are_run(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text("import sys; print(__name__, sys.argv[1:])")
    done = lowtide("run", "--no-report", "-m", "mod", "-x", cwd=tmp_path)
    assert (done.status, done.stdout, done.stderr) == (0, "__main__ ['-x']\n", "")
    done = lowtide("run", "--", "sh", "-c", f"echo shell; exec {sys.executable} -m mod", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("shell\n__main__ []\n")
    assert "TYPES" in done.stdout


def test_the_environment_and_descriptors_are_as_without(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, subprocess, sys, atexit\n"
        "print(sorted(os.environ.items()))\n"
        "print(sorted(os.listdir('/proc/self/fd')), os.getcwd(), sys.argv, sys.flags)\n"
        "print(subprocess.check_output(['env'], text=True))\n"
        "print(sys.stdin.read())\n"
    )
    plain = subprocess.run(
        [local_python.executable, tmp_path / "app.py"],
        input="in",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ),  # readline, here in the tests, changes what C sees beside it
    )
    args = ["run", "--no-report", "--no-children", "--python", local_python.executable, tmp_path / "app.py"]
    done = lowtide(*args, input="in", cwd=tmp_path)
    assert done.stdout.splitlines() == plain.stdout.splitlines()
    other = "/usr/lib/x86_64-linux-gnu/libdl.so.2"
    done = lowtide(*args, input="in", cwd=tmp_path, env={"LD_PRELOAD": other})
    assert f"('LD_PRELOAD', '{other}')" in done.stdout


def test_a_program_with_children_ends_as_without(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import multiprocessing, os, subprocess, sys\n"
        "def child(): sys.exit(0)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('fork')\n"
        "    p = multiprocessing.Process(target=child); p.start(); p.join()\n"
        "    if os.fork() == 0: sys.exit(9)\n"
        "    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)\n"
        "    subprocess.run([sys.executable, '-c', 'print(1)'])\n"
    )
    done = lowtide("run", "-o", tmp_path / "t.tide", "--no-report", tmp_path / "app.py")
    assert (done.status, done.stdout, done.stderr) == (0, "9\n1\n", "")
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    assert recording.meta["command"].endswith("app.py")


def start(lowtide_exe: Path, code: str, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "app.py").write_text(code)
    process = subprocess.Popen(
        [lowtide_exe, "run", "--no-report", "-o", tmp_path / "t.tide", tmp_path / "app.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_lowtide_is_the_programs(number: signal.Signals, lowtide_exe: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *a: sys.exit(40 + a[0]))\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    process = start(lowtide_exe, code, tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 40 + number
    assert (tmp_path / "t.tide").exists()


def test_a_signal_that_ends_the_program_ends_lowtide_alike(lowtide_exe: Path, tmp_path: Path) -> None:
    process = start(lowtide_exe, "import time\nprint('ready', flush=True)\ntime.sleep(600)\n", tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGTERM
    assert err.count("\n") == 1
    assert "SIGTERM" in err


def test_a_recorder_that_is_stopped_does_not_hold_the_programs_end_up(lowtide_exe: Path, tmp_path: Path) -> None:
    """The program waits for half a minute at most for one that is at work."""
    go = tmp_path / "go"
    code = f"import os, time\nprint('ready', flush=True)\nprint(os.getpid(), flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    process = start(lowtide_exe, code, tmp_path)
    assert process.stdout is not None
    program = Path(f"/proc/{process.stdout.readline().strip()}/stat")
    process.send_signal(signal.SIGSTOP)
    go.touch()
    end = time.monotonic() + 20
    while program.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert err.count("\n") == 1
    assert (tmp_path / "t.tide").exists()


def test_ctrl_c_on_a_terminal_reaches_the_program_once(lowtide_exe: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import time\ncount = 0\n"
        "try: print('ready', flush=True); time.sleep(600)\n"
        "except KeyboardInterrupt: count += 1\n"
        "try: time.sleep(0.3)\n"
        "except KeyboardInterrupt: count += 1\n"
        "print('interrupts', count, flush=True)\nraise SystemExit(7)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(lowtide_exe, [str(lowtide_exe), "run", "--no-report", str(tmp_path / "app.py")])
    said, end = b"", time.monotonic() + PATIENCE_S
    sent = False
    while b"interrupts" not in said or not said.endswith(b"\n"):
        assert time.monotonic() < end, said
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 1000)
        if b"ready" in said and not sent:
            os.write(terminal, b"\x03")
            sent = True
    assert b"interrupts 1" in said
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(terminal)


@pytest.mark.parametrize("place, words", [("missing/t.tide", "No such file"), ("", "is a directory")])
def test_a_place_that_cannot_be_is_told_before_the_program_runs(
    place: str, words: str, app: Path, lowtide: Lowtide, tmp_path: Path
) -> None:
    done = lowtide("run", "-o", tmp_path / place, app)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_full_disk_is_one_line_and_the_programs_status(app: Path, lowtide: Lowtide) -> None:
    done = lowtide("run", "-o", "/dev/full", app)
    assert (done.status, done.stdout) == (0, "out []\n")
    assert last_line(done.stderr).startswith("lowtide: ")
    assert "No space left on device" in last_line(done.stderr)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "name a .py file"),
        (["-o", "-", "x.py"], "standard output"),
        (["--colour", "x.py"], "--colour"),
        (["-m"], "-m"),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(words: list[str], said: str, lowtide: Lowtide) -> None:
    done = lowtide("run", *words)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_script_whose_interpreter_is_not_there_is_told_so(lowtide: Lowtide, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nonexistent/python\n")
    script.chmod(0o755)
    done = lowtide("run", "-o", tmp_path / "a.tide", "--", script)
    assert (done.status, done.stdout) == (127, "")
    assert done.stderr == f"lowtide: cannot run {script}: the interpreter that it names is not there\n"
    assert os.listdir(tmp_path) == ["script"]


def test_a_program_that_will_not_be_ended_goes_on_to_its_end(lowtide_exe: Path, tmp_path: Path) -> None:
    code = "import signal, sys\nsignal.signal(15, signal.SIG_IGN)\nprint('here', flush=True)\nsys.stdin.read()\nprint('done')"
    (tmp_path / "app.py").write_text(code)
    words = [lowtide_exe, "run", "--no-report", "-o", tmp_path / "a.tide", tmp_path / "app.py"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "here\n"
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert process.communicate(timeout=PATIENCE_S)[0] == "done\n"
    assert process.returncode == 0
    assert (tmp_path / "a.tide").exists()


FULL = """
import os, time
def build():
    return [{"i": i} for i in range(50_000)]
kept = build()
def partial():
    try: return os.stat("t.tide.partial")
    except OSError: return None
def another(before):
    while (now := partial()) == before or not now: time.sleep(0.05)
    return now
another(another(another(None))) # at the second there is all
filler = os.open("filler", os.O_CREAT | os.O_WRONLY)
try:
    while True: os.write(filler, bytes(4096))
except OSError: pass
"""


def test_a_disk_that_fills_up_keeps_what_was_known_and_says_where(lowtide_exe: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FULL)
    (tmp_path / "small").mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("nobody may mount here")
    script = """
        mount -t tmpfs -o size=3m none small && cd small || exit 99
        "$1" run --no-report -o t.tide ../app.py; echo "status $?"
        ls; cp t.tide.partial ..
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", lowtide_exe], cwd=tmp_path, capture_output=True, text=True
    )
    if done.returncode == 99:
        pytest.skip("nobody may mount here")
    assert done.stdout.split("\n")[:-1] == ["status 0", "filler", "t.tide.partial"]
    assert done.stderr == (
        "lowtide: t.tide: cannot write the recording: No space left on device; "
        "what was known without the heap is in t.tide.partial\n"
    )
    recording = read_recording((tmp_path / "t.tide.partial").read_bytes())
    functions = {row["function"] for row in recording.table_rows("frames")}
    assert "build" in functions
    assert sum(int(row["live_bytes"]) for row in recording.table_rows("allocations")) > 2_000_000


def test_another_one_that_would_write_the_same_file_is_refused_before_its_program_runs(
    lowtide_exe: Path, lowtide: Lowtide, app: Path, tmp_path: Path
) -> None:
    (tmp_path / "long.py").write_text("print('ready', flush=True)\ninput()\nprint('goes on')\n")
    first = subprocess.Popen(
        [lowtide_exe, "run", "--no-report", "-o", tmp_path / "t.tide", tmp_path / "long.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout and first.stdout.readline() == "ready\n"
    for words in (["run"], ["run", "--exact"]):
        done = lowtide(*words, "-o", tmp_path / "t.tide", app)
        assert (done.status, done.stdout) == (1, "")
        assert done.stderr == (
            f"lowtide: {tmp_path}/t.tide.partial is being written by another lowtide (process {first.pid}); "
            "wait until it has ended, or name another file with -o\n"
        )
    assert first.communicate("\n", timeout=PATIENCE_S) == ("goes on\n", None)
    assert lowtide("run", "-o", tmp_path / "t.tide", app).status == 0
    assert sorted(os.listdir(tmp_path)) == ["app.py", "long.py", "t.tide"]


def test_what_a_killed_one_left_keeps_nobody_out_and_is_kept(lowtide_exe: Path, app: Path, tmp_path: Path) -> None:
    """Its PID may be the next one's, as in a container that starts anew: here by exec."""
    again = 'echo part > "$2.$$.part"; exec "$1" run --no-report -o "$2" "$3"'
    partial = f"{tmp_path}/t.tide.partial"
    for old in ("t.tide.partial.old", "t.tide.partial.old.2"):
        Path(partial).write_text(f"known before {old}")
        done = subprocess.run(
            ["sh", "-c", again, "sh", lowtide_exe, tmp_path / "t.tide", app], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "out []\n")
        left = f"lowtide: {partial} was left by a lowtide that was killed; it is {tmp_path / old} now\n"
        assert done.stderr == f"{left}err\n"
        assert (tmp_path / old).read_text() == f"known before {old}"
    assert [path.read_text() for path in tmp_path.glob("t.tide.*.part")] == ["part\n"] * 2
    rest = sorted(path.name for path in tmp_path.glob("*") if path.suffix != ".part")
    assert rest == ["app.py", "t.tide", "t.tide.partial.old", "t.tide.partial.old.2"]


def test_whose_heap_it_is_that_has_no_finding_is_said_where_there_are_several(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\nif os.fork(): os.wait()\nelse: kept = bytearray(9 << 20)\n")
    said = " ".join(lowtide("run", tmp_path / "app.py").stdout.split())
    assert "Nothing to change: no finding in " in said
    assert " That is the heap of process " in said
    assert "alone; there are 2. Of the others the lists below tell by line. " in said


def test_a_lowtide_that_had_no_turn_meanwhile_hears_a_programs_beginning_before_its_end(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    """It is stopped before the program's first line, and goes on when the program has run its last."""
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\n")
    app = """
        import os, subprocess
        kept = [bytes(1000) for i in range(20_000)]
        subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -CONT {os.getppid()}"])
    """
    (tmp_path / "app.py").write_text(textwrap.dedent(app))
    words = ["run", "--no-report", "--exact", "--no-children", "-o", tmp_path / "t.tide", tmp_path / "app.py"]
    assert lowtide(*words, env={"PYTHONPATH": str(tmp_path)}).status == 0
    rows = read_recording((tmp_path / "t.tide").read_bytes()).table_rows("allocations")
    assert sum(int(row["total_bytes"]) for row in rows) > 20_000_000
