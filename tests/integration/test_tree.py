"""`lowtide run` follows what a program starts, by whatever way, and each process finds the world as without it."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lowtide, Python, all_pythons
from tide_decoder import Recording, read_recording

Row = dict[str, int | str]
Run = Callable[..., Recording]


@pytest.fixture
def run(lowtide: Lowtide, tmp_path: Path) -> Run:
    """Runs the program below lowtide and asserts that it said nothing else than it was told to."""

    def call(code: str, *options: object, stdout: str = "", status: int = 0, python: Python | None = None) -> Recording:
        (tmp_path / "app.py").write_text(textwrap.dedent(code))
        words = ["--python", python.executable] if python else []
        done = lowtide("run", "--no-report", "-o", tmp_path / "t.tide", *words, *options, tmp_path / "app.py")
        assert (done.status, done.stdout) == (status, stdout), done.stderr
        assert not done.stderr.replace(f"lowtide: no heap was captured: {tmp_path}/app.py", "").count("lowtide")
        assert "LD_PRELOAD" not in done.stderr
        return read_recording((tmp_path / "t.tide").read_bytes())

    return call


def processes(recording: Recording) -> list[Row]:
    return [dict(row) for row in recording.table_rows("processes")]


def commands(recording: Recording) -> list[list[str]]:
    return [str(row["command"]).split("\x1f") for row in processes(recording)]


def ancestors(recording: Recording, number: int) -> list[int]:
    """The numbers of its parents, up to the program itself."""
    rows, line = processes(recording), []
    while parent := int(rows[number]["parent"]):
        number = parent - 1
        line.append(number)
    return line


# Each starts `child` with nothing in its environment but A=1, and waits for it.
WAYS = {
    "subprocess": "subprocess.run(child, env={'A': '1'}, check=True)",
    "subprocess, descriptors left open": "subprocess.run(child, env={'A': '1'}, close_fds=False, check=True)",
    "subprocess, a session of its own": "subprocess.run(child, env={'A': '1'}, start_new_session=True, check=True)",
    "posix_spawn": "os.waitpid(os.posix_spawn(child[0], child, {'A': '1'}), 0)",
    "posix_spawnp": "os.waitpid(os.posix_spawnp('python3', child, {'A': '1', 'PATH': bin}), 0)",
    "fork and execve": "os.fork() or os.execve(child[0], child, {'A': '1'}); os.wait()",
    "fork and execvpe": "os.fork() or os.execvpe('python3', child, {'A': '1', 'PATH': bin}); os.wait()",
    "fork and fexecve": (
        "os.fork() or os.execve(os.open(child[0], os.O_RDONLY), [child[0], *child[1:]], {'A': '1'}); os.wait()"
    ),
    "env -i": "subprocess.run(['env', '-i', 'A=1', *child], check=True)",
    "a shell": "subprocess.run(['sh', '-c', 'A=1 \"$@\"; true', 'sh', *child], env={}, check=True)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_child_with_an_environment_of_its_own_is_followed_and_sees_that_alone(way: str, run: Run) -> None:
    recording = run(
        f"""
        import os, subprocess, sys
        bin = os.path.dirname(os.path.realpath(sys.executable))
        child = [os.path.realpath(sys.executable), "-c",
                 "import os; print({{k for k in os.environ if k not in ('LC_CTYPE', 'PATH', 'PWD', 'SHLVL', '_')}})"]
        {WAYS[way]}
        """,
        stdout="{'A'}\n",
    )
    first, *rest = processes(recording)
    assert rest and rest[-1]["mode"] == 1, commands(recording)
    assert "-c" in commands(recording)[-1]
    assert ancestors(recording, len(rest))[-1] == 0


def test_a_tree_two_deep_through_shells_and_forks_is_one_tree(run: Run) -> None:
    recording = run(
        """
        import os, subprocess, sys
        grandchild = "import os\\nif os.fork() == 0: os._exit(3)\\nos.wait(); print('leaf', flush=True)"
        child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], env={}, check=True)"
        subprocess.run(["sh", "-c", '"$@"; exit 0', "sh", sys.executable, "-c", child, grandchild], env={})
        """,
        stdout="leaf\n",
    )
    rows = processes(recording)
    assert len([row for row in rows if row["mode"]]) == 4
    assert max(len(ancestors(recording, number)) for number in range(len(rows))) == 3


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes_is_followed(method: str, run: Run) -> None:
    recording = run(
        f"""
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        def work(n):
            global kept
            kept = [str(i) for i in range(n)]
            return len(kept)
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                print(sum(pool.map(work, [100_000] * 8)))
        """,
        stdout="800000\n",
    )
    made = {int(row["process"]) for row in recording.table_rows("allocations") if int(row["total_bytes"]) > 3_000_000}
    assert made & set(range(1, 100))


@pytest.mark.parametrize("other", [p for p in all_pythons() if p.root is None], ids=str)
def test_a_child_of_another_python_is_followed(other: Python, run: Run) -> None:
    recording = run(
        f"""
        import subprocess
        subprocess.run([{other.executable!r}, "-c", "x = [str(i) for i in range(10**5)]"], env={{}}, check=True)
        """
    )
    _, child = processes(recording)
    assert str(child["python"]).startswith(f"3.{other.minor}.")


def test_children_of_another_environment_are_left_alone_on_demand(run: Run) -> None:
    code = """
        import subprocess, sys
        subprocess.run([sys.executable, "-c", "import os; print(sorted(os.environ))"], env={"LC_ALL": "C"}, check=True)
    """
    assert len(processes(run(code, "--no-children", stdout="['LC_ALL']\n"))) == 1


def test_libraries_that_a_child_is_to_preload_are_preloaded_behind_ours(run: Run) -> None:
    library = "/lib/x86_64-linux-gnu/libutil.so.1"
    if not Path(library).exists():
        pytest.skip(f"no {library}")
    recording = run(
        f"""
        import subprocess, sys
        show = "import os; print(os.environ['LD_PRELOAD'], any('libutil' in line for line in open('/proc/self/maps')))"
        subprocess.run([sys.executable, "-c", show], env={{"LD_PRELOAD": "{library}"}}, check=True)
        """,
        stdout=f"{library} True\n",
    )
    assert processes(recording)[1]["mode"] == 1


STATIC = "int main(int n, char **v, char **e) { return n > 1 ? execve(v[1], v + 1, e) : 0; }"


def test_a_program_that_the_agent_cannot_be_in_runs_unharmed(run: Run, tmp_path: Path) -> None:
    """Static, of another machine's loader, set-user-ID: said by what the loader would say of a library it cannot load."""
    # By its name it could be taken for the loader, which may be asked to start others.
    (tmp_path / "s.c").write_text("#include <unistd.h>\n" + STATIC)
    subprocess.run(["cc", "-static", "-o", tmp_path / "ldstatic", tmp_path / "s.c"], check=True)
    foreign = bytearray(Path(os.path.realpath("/bin/true")).read_bytes())
    at = foreign.index(b"ld-linux-x86-64")
    foreign[at : at + 8] = b"ld-other"
    (tmp_path / "foreign").write_bytes(foreign)
    (tmp_path / "foreign").chmod(0o755)
    recording = run(
        f"""
        import os, subprocess, sys
        static = {str(tmp_path / "ldstatic")!r}
        subprocess.run([static], env={{}}, check=True)
        subprocess.run([static, sys.executable, "-c", "print('behind', flush=True)"], env={{}}, check=True)
        try: subprocess.run([{str(tmp_path / "foreign")!r}], env={{}})
        except FileNotFoundError: print("no loader", flush=True)
        os.access("/bin/su", os.X_OK) and subprocess.run(["/bin/su", "--version"], stdout=subprocess.DEVNULL)
        """,
        stdout="behind\nno loader\n",
    )
    assert len([row for row in processes(recording) if row["mode"]]) == 2
    said = recording.meta["not_followed"]
    names = sorted(said.partition(": ")[2].split(", "))
    assert said.startswith(f"{len(names) + 1} started that are static, set-user-ID, or ")
    assert [name for name in names if "/su" not in name] == [str(tmp_path / "ldstatic")]


def test_what_was_not_started_is_not_said_to_be_left_out(run: Run, tmp_path: Path) -> None:
    """Counted before exec, since a child of vfork cannot do it later."""
    static = tmp_path / "static"
    static.write_bytes(b"\x7fELF\x01")
    static.chmod(0o755)
    recording = run(
        f"""
        import os, subprocess
        for start in (lambda: os.execv({str(static)!r}, ["x"]), lambda: subprocess.run([{str(static)!r}])):
            try: start()
            except OSError: print("refused")
        subprocess.run(["true"], check=True)
        """,
        stdout="refused\nrefused\n",
    )
    assert "not_followed" not in recording.meta


@pytest.mark.parametrize(
    "end, status",
    [
        ("os._exit(7)", 7 << 8),
        ("sys.exit(9)", 9 << 8),
        ("os.kill(os.getpid(), 9)", 9),
        ("os.kill(os.getpid(), 15)", 15),
        ("pass", 0),
    ],
)
def test_how_a_child_ended_is_in_the_recording(end: str, status: int, run: Run) -> None:
    recording = run(
        f"""
        import os, sys, time
        pid = os.fork()
        if pid == 0:
            kept = [str(i) for i in range(200_000)]  # 24 samples: that there is none, happens one time in 10^10
            {end}
            sys.exit(0)
        os.wait()
        """
    )
    first, child = processes(recording)
    assert int(child["end_us"]) > int(child["begin_us"])
    assert child["status"] in (status + 1, 0)  # 0: before Linux 6.15, where its parent waited for it at once
    assert any(int(row["process"]) == 1 and int(row["live_bytes"]) for row in recording.table_rows("allocations"))


def test_how_a_child_ended_that_was_gone_before_anybody_looked_is_in_the_recording(run: Run) -> None:
    """Its parent waits for it while the recorder is stopped."""
    recording = run(
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGSTOP)
        while open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[0] != "T": pass
        pid = os.fork()
        if pid == 0: os._exit(7)
        os.waitpid(pid, 0)
        os.kill(os.getppid(), signal.SIGCONT)
        """
    )
    _, child = processes(recording)
    assert child["status"] in (7 << 8 | 1, 0)  # 0: before Linux 6.16
    release = tuple(int(n) for n in os.uname().release.split(".")[:2])
    assert child["status"] or release < (6, 16)
