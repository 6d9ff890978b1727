"""What `import lowtide` costs a program: nothing beyond its own file, whatever is asked of it later."""

from __future__ import annotations

import subprocess
from pathlib import Path

import lowtide
import pytest
from conftest import PATIENCE_S, Python
from lowtide._record import Record
from test_package_inside import package

__all__ = ["package"]

HEAVY = ("asyncio", "concurrent.futures", "dataclasses", "inspect", "multiprocessing", "numpy", "sqlite3", "typing")


def loaded_by(python: Python, package: Path, code: str) -> list[str]:
    """What the code has in sys.modules that a bare Python has not. Neither site nor the environment brings anything in."""
    words = f"""import sys
sys.path.append({str(package)!r}); before = set(sys.modules)
{code}
print(*sorted(set(sys.modules) - before))"""
    done = subprocess.run(python.command("-I", "-S", "-c", words), capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_to_import_the_package_loads_no_other_module(local_python: Python, package: Path) -> None:
    assert set(loaded_by(local_python, package, "import lowtide")) <= {"lowtide", "__future__"}


def test_the_ledger_and_giving_back_load_none_that_is_heavy(local_python: Python, package: Path) -> None:
    loaded = loaded_by(local_python, package, "import lowtide; lowtide.rss(); lowtide.free(); str(lowtide.rss())")
    assert "lowtide._ledger" in loaded and not set(HEAVY) & set(loaded), loaded


def test_every_public_name_is_there_and_listed() -> None:
    for name in lowtide.__all__:
        assert getattr(lowtide, name) is not None
    assert set(lowtide.__all__) <= set(dir(lowtide))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lowtide.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_record_is_a_value_that_cannot_be_changed() -> None:
    class Layer(Record):
        name: str
        bytes: int
        note: str = ""

    one = Layer("malloc", 5)
    assert one == Layer(name="malloc", bytes=5) and one != Layer("malloc", 6) and one != ("malloc", 5, "")
    assert (len({one, Layer("malloc", 5)}), repr(one)) == (1, "Layer(name='malloc', bytes=5, note='')")
    assert isinstance(lowtide.rss().lines[0], lowtide.Line) and vars(one)["note"] == ""
    match one:
        case Layer(name, size):
            assert (name, size) == ("malloc", 5)
    with pytest.raises(AttributeError, match="cannot be changed"):
        one.bytes = 6  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot be changed"):
        del one.bytes
    for args, named in (((), {}), (("a",), {}), (("a", 1, "", 2), {}), (("a", 1), {"name": "b"}), (("a", 1), {"x": 1})):
        with pytest.raises(TypeError, match="takes name, bytes, note"):
            Layer(*args, **named)
