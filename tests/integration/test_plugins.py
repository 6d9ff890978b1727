"""What pytest and IPython bring of lowtide."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import lowtide
from lowtide._origin import is_library
from test_package_inside import package

__all__ = ["package"]

TESTS = """
import pytest
kept = []
def test_small(): assert bytearray(1000)
def test_large(): bytearray(30 << 20)
def test_keeps(): kept.append(bytearray(5 << 20))
@pytest.mark.limit_memory("10 MB")
def test_within(): bytearray(9_000_000)
@pytest.mark.limit_memory("10 MB")
def test_beyond(): bytearray(11_000_000)
@pytest.mark.limit_memory(1000)
def test_fails_by_itself(): bytearray(5000); assert not "its own reason"
"""


def run_pytest(package: Path, where: Path, *options: str) -> str:
    (where / "test_it.py").write_text(TESTS)
    env = {**os.environ, "PYTHONPATH": str(package), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "lowtide._pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run([*command, "test_it.py"], cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr  # a test failed
    return done.stdout


def test_pytest_tells_which_tests_need_and_keep_memory(package: Path, tmp_path: Path) -> None:
    said = run_pytest(package, tmp_path, "--lowtide", "--lowtide-tests", "2")
    tables = re.findall(r"tests that ([a-z ]+) =+\n((?: *[\d.]+ \w+  .*\n)*)", said)
    assert [what for what, _ in tables] == ["need most memory at once", "leave most memory behind"]
    need, keep = ([line.split() for line in rows.splitlines()] for _, rows in tables)
    assert need[0] == ["30.0", "MiB", "test_it.py::test_large"] and need[1][2].endswith("test_beyond")
    assert keep[0] == ["5.0", "MiB", "test_it.py::test_keeps"]
    assert len(need) == 2


def test_a_mark_bounds_what_a_test_holds_at_once(package: Path, tmp_path: Path) -> None:
    said = run_pytest(package, tmp_path)
    assert "2 failed, 4 passed" in said
    assert "the test held 10.5 MiB at once; limit_memory allows 9.5 MiB" in said
    assert "its own reason" in said and "lowtide" not in said.split("FAILURES")[0].split("rootdir")[0]


class Shell:
    """As much of IPython's as the extension asks for."""

    def __init__(self) -> None:
        self.magics: dict[str, Any] = {}
        self.space: dict[str, Any] = {}

    def register_magic_function(self, function: Any, magic_kind: str, magic_name: str) -> None:
        assert magic_kind == "line_cell"
        self.magics[magic_name] = function

    def run_cell(self, code: str, store_history: bool) -> None:
        exec(compile(code, "<cell>", "exec"), self.space)


def test_the_magic_of_ipython_tells_what_a_cell_needed_and_kept() -> None:
    shell = Shell()
    lowtide.load_ipython_extension(shell)  # as %load_ext does
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        shell.magics["lowtide"]("", "gone = bytearray(20 << 20)\ndel gone\nkept = bytearray(4 << 20)\n")
    first, *lines = out.getvalue().splitlines()
    assert re.fullmatch(r"at most 20\.\d MiB at once, 4\.\d MiB kept", first)
    assert re.match(r" *4\.0 MiB in \d+ blocks  <cell>:3", lines[0])
    assert not lowtide.tracemalloc.is_tracing()


def test_the_magic_tells_the_lines_of_the_cell_not_of_the_libraries_it_calls() -> None:
    shell = Shell()
    lowtide.load_ipython_extension(shell)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        shell.magics["lowtide"]("", "import json\nkept = json.loads('[' + '[1, 2],' * 50_000 + '0]')\n")
    _, *lines = out.getvalue().splitlines()
    assert [re.sub(" *\\S+ MiB in \\d+ blocks  ", "", line).rstrip() for line in lines] == ["<cell>:2"]


def test_a_library_s_file_is_told_from_the_programs_own() -> None:
    standard, packages = (sysconfig.get_path(name) for name in ("stdlib", "purelib"))
    own = lowtide.__file__
    installed = ["/usr/lib/python3/dist-packages/yaml.py", "/srv/venv/lib/python3.13/site-packages/PIL/Image.py"]
    assert all(map(is_library, [f"{standard}/json/decoder.py", f"{packages}/x.py", own, *installed]))
    assert is_library("<frozen os>") and is_library("pandas/_libs/lib.pyx")
    typed = ["<stdin>", "<string>", "<cell>"]
    assert not any(
        map(is_library, ["/srv/lib/python3-tools/x.py", "/srv/my-packages/x.py", f"{standard}-x.py", *typed])
    )
