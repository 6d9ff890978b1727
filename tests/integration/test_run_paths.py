"""`lowtide run` of a program whose libraries lie under long paths: each line, and whose code it is, as under short ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Lowtide, Python
from tide_decoder import read_recording

LIBRARY = """
import threading
class Node:
    def __init__(self): self.me, self.body = self, bytearray(4000)
def leave():
    for i in range(1000): Node()
def fill():
    return [bytes(1000) for i in range(5000)]
def hold(path):
    return open(path)
def wait(event, told):
    inside = [bytes(100)]
    told.set()
    event.wait()
"""

APP = """
import gc, sys, threading
sys.path.insert(0, {path!r})
import library
gc.disable()
library.leave()
kept = library.fill()
opened = library.hold(__file__)
event, told = threading.Event(), threading.Event()
threading.Thread(target=library.wait, args=(event, told), daemon=True).start()
told.wait()
"""


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library lies: more than 1,000 characters below, and the directory that tells is the last."""
    path = tmp_path_factory.mktemp("far")
    for letter in "abcdef":
        path /= letter * 200
    path /= "lib/python3.11/site-packages"
    path.mkdir(parents=True)
    (path / "library.py").write_text(LIBRARY)
    assert len(str(path)) > 1200
    return path


def run(far: Path, python: Python, lowtide: Lowtide, tmp_path: Path, *options: str) -> dict[str, Any]:
    (tmp_path / "app.py").write_text(APP.format(path=str(far)))
    words = ["--no-report", "-o", tmp_path / "t.tide", "--python", python.executable, *options, tmp_path / "app.py"]
    done = lowtide("run", *words)
    assert (done.status, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    return report


def test_what_lies_under_a_long_path_is_told_whole(
    far: Path, local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    report = run(far, local_python, lowtide, tmp_path, "--exact")
    file = str(far / "library.py")
    assert file in {site["file"] for site in report["allocations"]["sites"]}
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    told = "".join(str(line) for line in recording.objects)
    assert f"wait\\x1f{file}\\x1f" in told  # a frame
    assert f"fill\\x1f{file}\\x1f" in told  # code
    assert f"'{file}'" in told  # __file__


def test_a_library_under_a_long_path_is_not_taken_for_the_program(
    far: Path, this_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    report = run(far, this_python, lowtide, tmp_path, "--exact")
    app = str(tmp_path / "app.py")
    (garbage,) = (f for f in report["findings"] if f["kind"] == "garbage-cycle" and "library" in f["type"])
    assert garbage["fix"].startswith("call gc.collect()")
    (opened,) = (r for r in report["resources"] if r["kind"] == "file" and r["name"] == app)
    assert opened["opened_at"]["file"] == app


def test_without_values_no_file_of_a_module_is_told(
    far: Path, this_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    run(far, this_python, lowtide, tmp_path, "--no-values")
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    assert f"'{far / 'library.py'}'" not in "".join(str(line) for line in recording.objects)
