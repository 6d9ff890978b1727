"""CPython's own test_tracemalloc passes with lowtide.tracemalloc in the module's place, on every Python that brings the test.

What is left out stands below, each with its reason.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PATIENCE_S, TESTS, Python
from test_package_inside import package

__all__ = ["package"]

LEFT_OUT = {
    "TestCommandLine": "-X tracemalloc and PYTHONTRACEMALLOC start the interpreter's own module, whoever stands in its place",
    "test_late_untrack": "starts another Python, in which the interpreter's own module is in its place",
}
LEFT_OUT_BEFORE_3_13 = {
    "test_new_reference": "until 3.12 CPython tells nobody but its own module of an object that comes from a free list",
}


@pytest.fixture(scope="module")
def package_copied(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For Pythons in a chroot, who see /tmp alone."""
    return Path(shutil.copytree(package, tmp_path_factory.mktemp("copied") / "package"))


def test_cpythons_own_tests_pass(target_python: Python, package_copied: Path, tmp_path: Path) -> None:
    left_out = LEFT_OUT | (LEFT_OUT_BEFORE_3_13 if target_python.minor < 13 else {})
    script = TESTS / "integration/tracemalloc_by_lowtide.py"
    done = subprocess.run(
        target_python.command(script, json.dumps(left_out)),
        env={**os.environ, "PYTHONPATH": str(package_copied)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode == 77:
        pytest.skip(f"{target_python} comes without test.test_tracemalloc")
    assert done.returncode == 0, done.stderr
    told = ast.literal_eval(done.stdout)
    assert told["bad"] == [], done.stderr
    assert told["tests"] >= 45
    ours = set(left_out.values())
    assert all(why in ours or "_testcapi" in why or "release build" in why for _, why in told["skipped"]), told
