"""lowtide pipe and resuming: killed at any stage, full disks, changed inputs; nothing lost, nothing twice."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lowtide
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import EXECUTABLE
from lowtide._stream_bar import Bar
from lowtide._stream_engine import Progress

JOB = """
import os
def same(line): return line
def fail(line):
    if line == "15000": raise ValueError("fifteen thousand")
    return line
def drop(line): return None if int(line) % 2 else line
def many(line):
    yield line
    yield line
def total(rows): return [str(sum(map(int, rows)))]
def rows(row): return {"n": int(row["n"]) * 2, "t": row["t"]}
class NotMany: pass
number = 3
"""


def pipe(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=folder, env=environment(), capture_output=True, text=True, **more)


def command(*words: str) -> list[str]:
    return [str(EXECUTABLE), "pipe", f"--python={sys.executable}", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "LOWTIDE_STREAM_SAVE_S": "0", **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "in.txt").write_text("".join(f"{i}\n" for i in range(20_000)))
    return tmp_path


def left_in(folder: Path) -> list[str]:
    return sorted(set(os.listdir(folder)) - {"job.py", "in.txt", "__pycache__"})


def test_a_function_drops_changes_or_multiplies_records(folder: Path) -> None:
    for function, records in (("same", 20_000), ("drop", 10_000), ("many", 40_000)):
        done = pipe(folder, f"job:{function}", "in.txt", "-o", "out.txt", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["records_out"] == records
        assert (folder / "out.txt").read_text().count("\n") == records
    assert left_in(folder) == ["out.txt"]
    done = pipe(folder, "job:total", "in.txt", "-o", "-", "--chunks")
    assert sum(map(int, done.stdout.split())) == sum(range(20_000))
    assert pipe(folder, "job:same", "-", "-o", "-", input="a\nb\n").stdout == "a\nb\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nomodule:f", "in.txt"], "cannot import nomodule: ModuleNotFoundError: No module named 'nomodule'"),
        (["job:f", "in.txt"], "job has no f; look at its name in "),
        (["job:number", "in.txt"], "job:number is no function but int"),
        (["job.py:same", "in.txt"], "'job.py' is a file; write its module: job:same"),
        (["job", "in.txt"], "'job' names no function; write module:function"),
        (["job:same", "gone.txt"], "gone.txt is not there; look at its name"),
        (["job:same", "in.txt", "--memory=1M"], "the ceiling of 1.0 MiB is too low: the program takes "),
        (["job:fail", "in.txt"], "record 15001 of in.txt: ValueError: fifteen thousand (job.py:5)"),
        (["job:same", "in.txt", "-o", "no/out.txt"], "cannot keep "),
        (["job:same", "in.txt", "-o", "no/"], "no/ names a folder; name a file in it"),
        (["job:same", "/dev/null"], "/dev/null is no regular file; hand it over open, or from the shell as standard"),
        (["job:same", "in.txt", "-o", "in.txt"], "in.txt is read and written; write to another name"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(folder: Path, words: list[str], line: str) -> None:
    done = pipe(folder, *words[:2], "-o", "out.txt", *words[2:])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"lowtide: {line}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        (
            "latin.csv",
            b"caf\xe9,b\n1,2\n",
            "cannot read latin.csv: its header is not UTF-8; convert the file first, such as by",
        ),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16"), "cannot read wide.csv: its header is not UTF-8; "),
        (
            "latin.txt",
            b"ok\ncaf\xe9\n",
            "record 2 of latin.txt: ValueError: byte 0xe9 at its position 3 is not UTF-8; convert",
        ),
        (
            "latin.jsonl",
            b'{"a": "\xe9"}',
            "record 1 of latin.jsonl: ValueError: byte 0xe9 at its position 7 is not UTF-8; ",
        ),
        ("no.txt.gz", b"plain", "cannot read no.txt.gz: its gzip data is damaged (Not a gzipped file"),
        ("no.parquet", b"plain", "cannot read no.parquet: Parquet file size is 5 bytes"),
        ("cut.jsonl", b'{"a": 1}\n{"a": ', "record 2 of cut.jsonl: json.decoder.JSONDecodeError: "),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_one_line(folder: Path, name: str, data: bytes, line: str) -> None:
    (folder / name).write_bytes(data)
    done = pipe(folder, "job:same", name, "-o", "out.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"lowtide: {line}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "data", "out", "wanted"),
    [
        (
            "windows.csv",
            b'a,b\r\n1,"x\r\ny"\r\n2,"q ""z"""\r\n3,last',
            "o.csv",
            'a,b\n1,"x\r\ny"\n2,"q ""z"""\n3,last\n',
        ),
        ("bom.csv", b"\xef\xbb\xbfa,b\n1,2\n", "o.jsonl", '{"a": "1", "b": "2"}\n'),
        ("bom.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}', "o.csv", "a\n1\n2\n"),
        ("empty.csv", b"", "o.csv", ""),
        ("no_newline.txt", b"\n\na\0b\r\n \nlast", "o.txt", "\n\na\0b\n \nlast\n"),
    ],
)
def test_files_of_other_systems_are_read_as_they_are_meant(
    folder: Path, name: str, data: bytes, out: str, wanted: str
) -> None:
    (folder / name).write_bytes(data)
    (folder / out).write_text("what was there before")
    done = pipe(folder, "job:same", name, "-o", out)
    assert done.returncode == 0, done.stderr
    assert (folder / out).read_bytes().decode() == wanted


def test_a_worker_that_crashes_is_told_by_its_signal(folder: Path) -> None:
    (folder / "crash.py").write_text(
        "import os\ndef at_77(line):\n    if line == '77':\n        os.kill(os.getpid(), 11)\n    return line\n"
    )
    done = pipe(folder, "crash:at_77", "in.txt", "-o", "out.txt", "--workers=2")
    assert (done.returncode, done.stderr) == (1, "lowtide: record 78 of in.txt: it killed its worker: SIGSEGV\n")
    done = pipe(folder, "crash:at_77", "in.txt", "-o", "out.txt", "--workers=2", "--resume", "--errors=skip")
    assert done.returncode == 0 and (folder / "out.txt").read_text().count("\n") == 19_999


@pytest.mark.parametrize("words", [[], ["job:same", "in.txt"], ["job:same", "in.txt", "-o", "o", "--memory=lots"]])
def test_wrong_words_are_status_2(folder: Path, words: list[str]) -> None:
    done = pipe(folder, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_failed_run_goes_on_once_its_record_may_be_set_aside(folder: Path) -> None:
    assert pipe(folder, "job:fail", "in.txt", "-o", "out.txt").returncode == 1
    assert left_in(folder) == ["out.txt.checkpoint", "out.txt.part"]
    done = pipe(folder, "job:fail", "in.txt", "-o", "out.txt", "--resume", "--errors=bad.jsonl", "--workers=2")
    assert done.returncode == 0 and "19999 of 20000 records, 1 set aside" in done.stderr
    assert left_in(folder) == ["bad.jsonl", "out.txt"]
    assert json.loads((folder / "bad.jsonl").read_text())["record"] == 15001
    assert (folder / "out.txt").read_text() == "".join(f"{i}\n" for i in range(20_000) if i != 15000)


def test_a_checkpoint_of_another_job_is_refused(folder: Path) -> None:
    def refused(*words: str) -> str:
        done = pipe(folder, *words, "-o", "out.txt", "--resume")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        return done.stderr

    assert pipe(folder, "job:fail", "in.txt", "-o", "out.txt").returncode == 1
    assert "had other functions (job:fail, not job:same)" in refused("job:same", "in.txt")
    (folder / "job.py").write_text(JOB.replace("15000", "-1"))
    assert "job:fail was changed since the run that was stopped" in refused("job:fail", "in.txt")
    (folder / "in.txt").open("a").write("20000\n")
    assert "in.txt was changed since the run that was stopped" in refused("job:fail", "in.txt")
    (folder / "in.txt").rename(folder / "other.txt")
    assert "in.txt is not there" in refused("job:fail", "in.txt")
    assert "the source had" in refused("job:fail", "other.txt")


def test_a_changed_function_may_be_accepted(folder: Path) -> None:
    assert pipe(folder, "job:fail", "in.txt", "-o", "out.txt").returncode == 1
    (folder / "job.py").write_text(JOB.replace("15000", "-1"))
    assert pipe(folder, "job:fail", "in.txt", "-o", "out.txt", "--resume=changed").returncode == 0
    assert (folder / "out.txt").read_bytes() == (folder / "in.txt").read_bytes()


def test_a_file_that_may_not_grow_is_one_line_and_resumable(folder: Path) -> None:
    limited = f"ulimit -f 40; exec {' '.join(command('job:same', 'in.txt', '-o', 'out.txt'))}"
    done = subprocess.run(["bash", "-c", limited], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "lowtide: cannot write out.txt: File too large\n"
    assert pipe(folder, "job:same", "in.txt", "-o", "out.txt", "--resume").returncode == 0
    assert (folder / "out.txt").read_bytes() == (folder / "in.txt").read_bytes()


IN_SMALL_DISK = """
set -e
mount -t tmpfs -o size=256k tmpfs disk
set +e; "$@"; echo status $?
mount -o remount,size=4m disk
set -e; "$@" --resume
cp disk/out.txt out.txt
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_disk_that_is_full_is_one_line_and_resumable_once_it_has_room(folder: Path, workers: str) -> None:
    big_input(folder)
    (folder / "disk").mkdir()
    words = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    inner = command("job:same", "in.txt", "-o", "disk/out.txt", f"--workers={workers}")
    done = subprocess.run(
        [*words, "bash", "-c", IN_SMALL_DISK, "bash", *inner],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "status 1\n"
    first, second = done.stderr.splitlines()
    assert first.startswith("lowtide: cannot write ") and second.startswith("disk/out.txt: ")
    assert (folder / "out.txt").read_bytes() == (folder / "in.txt").read_bytes()


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_input_is_one_line_and_a_whole_one_is_another_input(folder: Path, suffix: str) -> None:
    opened: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": zstandard.open}
    cut = folder / f"cut.txt.{suffix}"
    with opened[suffix](cut, "wb") as file:
        file.write(os.urandom(1 << 20).hex("\n", 64).encode())
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    done = pipe(folder, "job:same", cut.name, "-o", "out.txt")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "data ends in the middle after " in done.stderr and "get the file anew" in done.stderr
    cut.write_bytes(whole)
    done = pipe(folder, "job:same", cut.name, "-o", "out.txt", "--resume")
    assert done.returncode == 1 and "was changed since the run that was stopped" in done.stderr
    assert pipe(folder, "job:same", cut.name, "-o", "out.txt").returncode == 0


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("os.truncate('in.txt', 100)", "in.txt was changed while it was read; begin again once it stands still"),
        ("open('in.txt', 'a').write('more')", "in.txt was changed while it was read"),
        ("os.remove('in.txt')", None),
    ],
)
def test_an_input_that_changes_under_way_is_one_line_and_one_that_vanishes_is_read_on(
    folder: Path, workers: str, way: str, line: str | None
) -> None:
    big_input(folder)
    expected = (folder / "in.txt").read_bytes()
    (folder / "change.py").write_text(
        f"import os\ndef change(line):\n    if line == '1000':\n        {way}\n    return line\n"
    )
    done = pipe(folder, "change:change", "in.txt", "-o", "out.txt", f"--workers={workers}")
    if line is None:
        assert done.returncode == 0, done.stderr
        assert (folder / "out.txt").read_bytes() == expected
    else:
        assert done.returncode == 1
        assert done.stderr.startswith(f"lowtide: {line}") and done.stderr.count("\n") == 1
        assert not (folder / "out.txt").exists()


def test_a_module_that_only_this_process_has_is_one_line(folder: Path) -> None:
    (folder / "made.py").write_text(
        "import sys, types, lowtide\n"
        "if __name__ == '__main__':\n"
        "    module = types.ModuleType('nowhere')\n"
        "    exec('def same(line): return line', module.__dict__)\n"
        "    sys.modules['nowhere'] = module\n"
        "    try: lowtide.stream('in.txt', workers=1).map(module.same).write('out.txt')\n"
        "    except lowtide.StreamError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "made.py"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.startswith("cannot have the functions in a worker: ModuleNotFoundError")
        and "nowhere" in done.stdout
    )


def test_a_program_that_is_not_guarded_is_told_how_to_be(folder: Path) -> None:
    (folder / "bare.py").write_text("import lowtide\nlowtide.stream('in.txt', workers=1).write('out.txt')\n")
    done = subprocess.run([sys.executable, "bare.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert "StreamError: cannot start workers: " in done.stderr and 'if __name__ == "__main__":' in done.stderr


def slow_job(folder: Path) -> None:
    """Stands still at record 15000 until the file go is there, and says so by the file here."""
    (folder / "slow.py").write_text(
        "import os, time\n"
        "def wait(line):\n"
        "    if line == '15000':\n"
        "        open('here', 'w').close()\n"
        "        while not os.path.exists('go'): time.sleep(0.01)\n"
        "    return line\n"
    )


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_so_and_goes_on_later(folder: Path, workers: str, number: int) -> None:
    slow_job(folder)
    words = command("slow:wait", "in.txt", "-o", "out.txt", f"--workers={workers}")
    with subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "here").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 128 + number
    assert said.startswith("lowtide: interrupted at ") and said.endswith("--resume goes on\n") and said.count("\n") == 1
    assert not (folder / "out.txt").exists()
    (folder / "go").touch()
    assert pipe(folder, "slow:wait", "in.txt", "-o", "out.txt", "--resume").returncode == 0
    assert (folder / "out.txt").read_bytes() == (folder / "in.txt").read_bytes()


def others_of(session: int) -> list[int]:
    """Processes of a session but its first: workers, and the one that they are forked from."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session and int(name) != session and fields[0] != b"Z":
                found.append(int(name))
    return found


def strike(process: subprocess.Popen[str], rng: random.Random) -> None:
    """Kills one worker, or the first process alone, or everything."""
    others = others_of(process.pid)
    if others and rng.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(others), signal.SIGKILL)
    elif rng.random() < 0.5:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def kill_until_done(folder: Path, words: list[str], rng: random.Random, kills: int) -> int:
    """Runs the command again and again, struck after random times; how often it was."""
    span, killed = 0.4, 0
    while True:
        process = subprocess.Popen(
            words, cwd=folder, env=environment(), start_new_session=True, stderr=subprocess.PIPE, text=True
        )
        while True:
            try:
                _, said = process.communicate(timeout=rng.uniform(0, span) if killed < kills else None)
                break
            except subprocess.TimeoutExpired:
                strike(process, rng)
                killed += 1
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, said


def check_kills(folder: Path, function: str, source: str, out: str, workers: str, kills: int, seed: int) -> None:
    rng, killed = random.Random(seed), 0
    whole = f"whole-{out}"
    pipe(folder, f"job:{function}", source, "-o", whole, "--errors=whole.jsonl", check=True)
    while killed < kills:
        words = command(f"job:{function}", source, "-o", out, "--resume", "--errors=bad.jsonl", f"--workers={workers}")
        killed += kill_until_done(folder, words, rng, 8)
        if out.endswith(".parquet"):
            assert list(lowtide.stream(folder / out)) == list(lowtide.stream(folder / whole))
        else:
            assert (folder / out).read_bytes() == (folder / whole).read_bytes()
        assert (folder / "bad.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
        (folder / out).unlink()
        assert not [name for name in os.listdir(folder) if name.startswith(out)]


def big_input(folder: Path) -> None:
    (folder / "in.txt").write_text("".join(f"{i}\n" for i in range(400_000)))
    pq.write_table(pa.table({"n": range(40_000), "t": [f"{i:>50}" for i in range(40_000)]}), folder / "in.parquet")
    (folder / "in.csv").write_text("n,t\n" + "".join(f'{i},"a\n{i}"\n' if i != 500 else "x,y\n" for i in range(60_000)))


@pytest.mark.parametrize(
    ("function", "source", "out", "workers"),
    [
        ("fail", "in.txt", "out.txt", "0"),
        ("fail", "in.txt", "out.txt", "2"),
        ("rows", "in.csv", "out.csv", "0"),
        ("rows", "in.parquet", "out.parquet", "2"),
    ],
)
def test_killed_at_random_the_same_command_goes_on(
    folder: Path, function: str, source: str, out: str, workers: str
) -> None:
    big_input(folder)
    check_kills(folder, function, source, out, workers, kills=4, seed=len(source) + int(workers))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("function", "source", "out"),
    [("fail", "in.txt", "out.txt"), ("rows", "in.csv", "out.csv"), ("rows", "in.csv", "out.parquet")],
)
def test_hundreds_of_kills_lose_and_double_nothing(
    folder: Path, function: str, source: str, out: str, workers: str
) -> None:
    big_input(folder)
    check_kills(folder, function, source, out, workers, kills=60, seed=1)


def test_reduce_goes_on_from_its_checkpoint(folder: Path) -> None:
    calls = []

    def add(so_far: int, line: str) -> int:
        if line == "15000" and not calls:
            calls.append(line)
            raise KeyboardInterrupt
        return so_far + int(line)

    stream = lowtide.stream(folder / "in.txt", checkpoint=folder / "sum.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        stream.reduce(add, 0)
    assert stream.reduce(add, 0) == sum(range(20_000))


def test_the_bar_says_how_far_it_is_and_fits_the_line() -> None:
    bar = Bar(sys.stderr)
    bar._past = [(0.0, 0), (1.0, 100 << 20)]
    now = Progress(100 << 20, 400 << 20, 1, 1, 2, 90 << 20, 95 << 20, 512 << 20, 1.0)
    bar.plain = True
    assert bar.line(now, 200) == (
        "#######.......................  25 % 100 of 400 MiB | 100 MiB/s | 3 s left | memory 90.0 of 512 MiB"
        " | 2 set aside"
    )
    assert bar.line(now, 79) == "##........  25 % 100 MiB | 100 MiB/s | 3 s left | 90.0 of 512 MiB | 2 set aside"
    assert bar.line(now, 59) == " 25 % 100 MiB/s | 3 s left | 90.0 of 512 MiB | 2 set aside"
    assert all(len(bar.line(now, width)) <= width for width in range(10, 200))


def test_a_terminal_sees_the_bar_and_a_pipe_does_not(folder: Path) -> None:
    slow_job(folder)
    ours, theirs = pty.openpty()
    words = command("slow:wait", "in.txt", "-o", "out.txt", "--workers=1")
    process = subprocess.Popen(words, cwd=folder, env=environment(COLUMNS="120"), stderr=theirs)
    os.close(theirs)
    said = b""
    while b"memory" not in said:
        assert select.select([ours], [], [], 240)[0]
        said += os.read(ours, 4096)
    (folder / "go").touch()
    assert process.wait() == 0
    assert b"% " in said and b" of 512 MiB" in said
    assert b"\x1b[K\r" in said  # the cursor waits at the begin: what is typed is drawn over
    os.close(ours)
