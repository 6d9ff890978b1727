"""Links that lead from what a stream writes to what it, or somebody else, reads; and what a run that is refused leaves."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import lowtide
import pytest
from conftest import EXECUTABLE
from test_stream_refusals import contents, folder, pipe

__all__ = ["folder"]
PIPE = [str(EXECUTABLE), "pipe", f"--python={sys.executable}", "job:same", "-o", "-"]
TABLE = [{"a": 1}, {"a": 2}]


def test_a_checkpoint_that_is_a_link_is_removed_where_it_lies_and_takes_nothing_along(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "k").symlink_to("d/ck")
    (folder / "k-journal").write_text("a\nb\n")
    done = pipe("job:same", "k-journal", "-o", "o.txt", "--checkpoint", "k")
    assert done.returncode == 0, done.stderr
    assert (folder / "k-journal").read_text() == (folder / "o.txt").read_text() == "a\nb\n"
    assert not list((folder / "d").iterdir())


@pytest.mark.parametrize("words", ["-o o.txt", "-o p.txt --errors o.txt"])
def test_a_hard_link_to_an_input_on_the_way_to_what_is_written_is_refused(folder: Path, words: str) -> None:
    (folder / "o.txt.part").hardlink_to("in.txt")
    before = contents(folder)
    done = pipe("job:same", "in.txt", *words.split())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "o.txt.part is read and " in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("link", ["hard", "soft"])
@pytest.mark.parametrize("end", [".part", ".part.whole"])
def test_a_link_of_the_name_of_the_unfinished_file_costs_nobody_a_byte(folder: Path, link: str, end: str) -> None:
    for name in ("o.txt", "o.arrow", "x.jsonl"):
        theirs, path = folder / f"their {name}", folder / (name + end)
        theirs.write_text("precious\n")
        path.hardlink_to(theirs) if link == "hard" else path.symlink_to(theirs)
    done = pipe("job:fail", "in.txt", "-o", "o.txt", "--errors", "x.jsonl")
    assert done.returncode == 0, done.stderr
    assert (folder / "x.jsonl").read_text().count("ValueError") == 2
    lowtide.stream(TABLE).write("o.arrow")
    assert list(lowtide.stream("o.arrow", "1GiB")) == TABLE
    lowtide.stream(TABLE, resume=True).write("o.arrow")
    assert [path.read_text() for path in folder.glob("their *")] == ["precious\n"] * 3


def test_a_run_that_is_refused_leaves_what_the_last_one_set_aside(folder: Path) -> None:
    words = ("job:fail", "in.txt", "-o", "o.txt", "--errors", "e.jsonl")
    assert pipe(*words).returncode == 0
    before = contents(folder)["e.jsonl"]
    assert before.count(b"ValueError") == 2
    done = pipe(*words, "--memory=1MiB")
    assert done.returncode == 1 and "raise memory" in done.stderr or "MiB" in done.stderr
    assert contents(folder)["e.jsonl"] == before
    with pytest.raises(lowtide.StreamError):
        list(lowtide.stream("in.txt", "1MiB", errors="e.jsonl"))
    assert contents(folder)["e.jsonl"] == before


def test_what_is_written_as_it_comes_has_no_other_names(folder: Path) -> None:
    with open("data.part", "w") as made:
        made.write("a\nb\n")
    with open("data", "wb") as out:
        done = subprocess.run([*PIPE, "data.part"], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "data").read_text() == "a\nb\n"


def test_a_socket_may_be_read_and_written(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"a\nb\n")
        ours.shutdown(socket.SHUT_WR)
        done = subprocess.run([*PIPE, "-"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
        assert ours.recv(64) == b"a\nb\n"


@pytest.mark.parametrize("words", ["-o /dev/stdout", "-o o.txt --errors /dev/fd/1", "-o to-stdout"])
def test_a_descriptor_that_leads_to_a_file_is_no_name_to_write_to(folder: Path, words: str) -> None:
    (folder / "to-stdout").symlink_to("/dev/stdout")
    command = [*PIPE[:-2], "in.txt", *words.split()]
    with open("log", "wb") as log:
        log.write(b"before\n")
        log.flush()
        done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{words.split()[-1]} is a descriptor; name the file, or write `-o -`" in done.stderr
    assert (folder / "log").read_text() == "before\n"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pipe("job:same", "in.txt", "-o", "/dev/null").returncode == 0
