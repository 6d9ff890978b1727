"""What holds for every command: help, statuses, errors in one line, outputs, pipes, signals."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from shop import make_shop, on_terminal

READERS = ("report", "why", "diff", "sql")
COMMANDS = ("run", "attach", "top", "dump", *READERS, "doctor")
ONE_LINE = re.compile(r"lowtide: [^\n]+\n")


@pytest.fixture(scope="module")
def shop(lowtide_exe, tmp_path_factory):
    return make_shop(lowtide_exe, tmp_path_factory.mktemp("shop") / "lowtide-1.tide")


def words(command: str, file: Path | str) -> list[str]:
    """A complete call of a command that reads recordings."""
    behind = {"why": ["cache"], "diff": [str(file)], "sql": ["select * from objects"]}
    return [command, str(file), *behind.get(command, [])]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_usage_summary_options_and_ends_with_an_example(lowtide, command):
    done = lowtide(command, "--help")
    assert done.status == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"usage: lowtide {command}")
    assert any(line.endswith(".") for line in lines[1:5])
    example = [i for i, line in enumerate(lines) if line.startswith("Example")]
    assert example
    assert all(line.startswith("  ") for line in lines[example[-1] + 1 :] if line)
    assert "lowtide" in done.stdout[done.stdout.rindex("Example") :]
    assert all(len(line) <= 100 for line in lines)
    assert lowtide("help", command).stdout == done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_documentation(lowtide, command):
    page = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()
    section = re.search(rf"^## lowtide {command}\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S)
    assert section
    options = set(re.findall(r"--[a-z][a-z-]+", lowtide(command, "--help").stdout))
    assert options <= set(re.findall(r"--[a-z][a-z-]+", section[1]))


def test_the_overview_lists_every_command(lowtide):
    done = lowtide("--help")
    assert done.status == 0
    listed = re.findall(r"^  lowtide (\w+) ", done.stdout, flags=re.M)
    assert [command for command in dict.fromkeys(listed) if command in COMMANDS] == list(COMMANDS)
    assert lowtide("-h").stdout == lowtide("help").stdout == done.stdout
    bare = lowtide()
    assert (bare.status, bare.stdout, bare.stderr) == (2, "", done.stdout)


def test_the_version_is_told(lowtide):
    assert re.fullmatch(r"lowtide \d+\.\d+\.\d+\n", lowtide("--version").stdout)
    assert lowtide("--version").stdout == lowtide("-V").stdout


@pytest.mark.parametrize(
    "word, hint",
    [
        ("repotr", "did you mean `lowtide report`?"),
        ("dif", "did you mean `lowtide diff`?"),
        ("xyzzy", "`lowtide --help` lists them"),
        ("app.py", "to run a program: lowtide run app.py"),
        ("a.tide", "to read a recording: lowtide report a.tide"),
        ("", "`lowtide --help` lists them"),
        ("x" * 5000, "`lowtide --help` lists them"),
    ],
)
def test_an_unknown_command_is_answered_by_the_nearest(lowtide, word, hint):
    done = lowtide(word)
    assert done.status == 2
    assert ONE_LINE.fullmatch(done.stderr)
    assert hint in done.stderr


@pytest.mark.parametrize(
    "call",
    [
        ["report", "--nope"],
        ["report", "-x"],
        ["report", "--top"],
        ["report", "--top", "0"],
        ["report", "--top", "ten"],
        ["report", "--top", "99999999999999999999"],
        ["report", "--by", "colour"],
        ["report", "--json=1"],
        ["report", "a", "b"],
        ["why", "a"],
        ["why"],
        ["why", "a", "b", "--avoid"],
        ["diff", "a"],
        ["sql"],
        ["sql", "a", "b", "c"],
        ["doctor", "x"],
        ["--nope"],
        ["help", "xyzzy"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_status_2(lowtide, tmp_path, call):
    done = lowtide(*call, cwd=tmp_path)
    assert done.status == 2
    assert done.stdout == ""
    assert ONE_LINE.fullmatch(done.stderr)
    assert "--help" in done.stderr


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("what", ["missing", "directory", "stranger", "empty", "newer", "fifo"])
def test_what_is_no_recording_is_refused_in_one_line(lowtide, shop, tmp_path, command, what):
    bad = tmp_path / "bad.tide"
    if what == "directory":
        bad.mkdir()
    elif what == "stranger":
        bad.write_text("#!/bin/sh\necho hello\n" * 100)
    elif what == "empty":
        bad.touch()
    elif what == "newer":
        whole = bytearray(shop.read_bytes())
        whole[8] = 9
        bad.write_bytes(whole)
    elif what == "fifo":
        os.mkfifo(bad)
    done = lowtide(*words(command, bad), timeout=60)
    assert (done.status, done.stdout) == (1, "")
    assert ONE_LINE.fullmatch(done.stderr)
    assert "bad.tide" in done.stderr


def test_a_recording_too_large_for_the_machine_is_one_line(lowtide_exe, shop):
    def little_memory():
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 20, 1 << 20))

    done = subprocess.run(
        [lowtide_exe, "report", shop], capture_output=True, text=True, preexec_fn=little_memory, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "needs more memory to be explained than the 1.0 MiB that are free here" in done.stderr


def test_a_name_with_escape_sequences_does_not_reach_the_terminal_raw(lowtide, tmp_path):
    done = lowtide("report", tmp_path / "\x1b[31m\nred")
    assert done.status == 1
    assert ONE_LINE.fullmatch(done.stderr)
    assert "\x1b" not in done.stderr


def test_report_takes_the_newest_recording_of_the_directory(lowtide, lowtide_exe, tmp_path):
    done = lowtide("report", cwd=tmp_path)
    assert done.status == 1
    assert ONE_LINE.fullmatch(done.stderr)
    assert "lowtide dump" in done.stderr
    for name, sessions, age in (("lowtide-9.tide", 5, 50), ("lowtide-1.tide", 7, 10), ("other.tide", 9, 0)):
        path = make_shop(lowtide_exe, tmp_path / name, sessions)
        os.utime(path, (time.time() - age, time.time() - age))
    (tmp_path / "lowtide-x.tide").mkdir()
    assert lowtide("report", cwd=tmp_path).stdout == lowtide("report", "lowtide-1.tide", cwd=tmp_path).stdout
    assert lowtide("report", cwd=tmp_path).status == 0


@pytest.mark.parametrize("command", READERS)
def test_output_goes_where_o_says(lowtide, shop, tmp_path, command):
    printed = lowtide(*words(command, shop)).stdout
    assert printed
    done = lowtide(*words(command, shop), "-o", tmp_path / "out")
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").read_text() == printed
    assert lowtide(*words(command, shop), "-o", "-").stdout == printed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", READERS)
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(lowtide, shop, tmp_path, command):
    for where, reason in (
        (tmp_path / "no/where", errno.ENOENT),
        (tmp_path, None),
        ("/dev/full", errno.ENOSPC),
        ("/proc/nope", None),
    ):
        done = lowtide(*words(command, shop), "-o", where)
        assert done.status == 1, where
        assert done.stdout == ""
        assert ONE_LINE.fullmatch(done.stderr)
        assert reason is None or os.strerror(reason) in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["run"], ["attach"]])
@pytest.mark.parametrize("options", [["--exact", "--interval", "64K"], ["--interval=64K", "--exact"]])
def test_an_interval_beside_exact_is_wrong_usage(command, options, lowtide, tmp_path):
    (tmp_path / "app.py").write_text("print('ran')")
    done = lowtide(*command, *options, tmp_path / "app.py" if command == ["run"] else os.getpid(), cwd=tmp_path)
    said = "lowtide: --exact counts every allocation, so there is no --interval; leave one of the two out; see "
    assert (done.status, done.stdout, done.stderr) == (2, "", f"{said}`lowtide {command[0]} --help`\n")
    assert os.listdir(tmp_path) == ["app.py"]


def test_a_full_disk_behind_standard_output_is_a_failure(lowtide_exe, shop):
    for call in (*(words(command, shop) for command in READERS), ["--help"], ["doctor"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([lowtide_exe, *call], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert ONE_LINE.fullmatch(done.stderr)
        assert os.strerror(errno.ENOSPC) in done.stderr


def test_closed_standard_streams_do_no_harm(lowtide_exe, shop, tmp_path):
    out = tmp_path / "out"
    shell = ["sh", "-c", 'exec "$0" report "$@" 0<&- 1>&- 2>&-', lowtide_exe]
    assert subprocess.run([*shell, shop]).returncode == 1
    assert subprocess.run([*shell, shop, "-o", out]).returncode == 0
    assert out.read_text() == subprocess.check_output([lowtide_exe, "report", shop], text=True)
    out.unlink()
    assert subprocess.run([*shell, tmp_path / "missing", "-o", out]).returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READERS)
def test_a_reader_that_goes_away_is_no_error(lowtide_exe, shop, command):
    call = [lowtide_exe, *words(command, shop)]
    gone, pipe = os.pipe()
    os.close(gone)
    done = subprocess.run(call, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)


ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c"


def written(pid, place):
    """Bytes of its files below place: what it writes has no name until it is whole."""
    with contextlib.suppress(FileNotFoundError):  # one that was closed meanwhile
        links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if str(place) in os.readlink(link)]
        return sum(link.stat().st_size for link in links)
    return 0


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_is_quiet_and_leaves_nothing(lowtide_exe, shop, tmp_path, which):
    process = subprocess.Popen(
        [lowtide_exe, "sql", shop, ENDLESS, "--csv", "-o", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        while not written(process.pid, tmp_path):
            time.sleep(0.01)
        process.send_signal(which)
        assert process.communicate(timeout=120) == (b"", b"")
    finally:
        process.kill()
    assert process.returncode == 128 + which
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_when_its_successor_fails(lowtide, shop, tmp_path):
    out = tmp_path / "out"
    out.write_text("the old one")
    bad = "select abs(iif(id < 8000, id, -9223372036854775807 - 1)) from objects"
    assert lowtide("sql", shop, bad, "--csv", "-o", out).status == 1
    assert out.read_text() == "the old one"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("command", READERS)
def test_colour_comes_on_a_terminal_alone(lowtide, lowtide_exe, shop, command):
    call = [lowtide_exe, *words(command, shop)]
    if command == "sql":
        call[-1] = "select null"
    assert "\x1b" not in lowtide(*call[1:]).stdout
    assert "\x1b[" in on_terminal(call)[1]
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal(call, env=env)[1]
    assert "\x1b[" in on_terminal(call, env={"NO_COLOR": ""})[1]


def test_doctor_says_what_whether_and_what_to_do(lowtide):
    done = lowtide("doctor")
    lines = done.stdout.splitlines()
    for name in ("system", "ptrace", "pidfd_getfd", "memfd", "overcommit", "perf", "PSI", "cgroup", "agent", "Pythons"):
        assert any(re.match(rf"(ok|limited|missing) +{name} ", line) for line in lines), name
    assert done.status == any(line.startswith("missing") for line in lines)


def test_doctor_finds_the_pythons_that_run(lowtide, this_python):
    """As many as have room in the line: where very many run, ours may be among those that are only counted."""
    said = lowtide("doctor", "--json").stdout
    assert f"{os.getpid()} (3.{this_python.minor})" in said or re.search(
        r"(, \d+ \(3\.\d+[^)]*\)){10}.*, \d+ more\b", said
    )
