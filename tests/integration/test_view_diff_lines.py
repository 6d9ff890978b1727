"""lowtide diff of allocation profiles: lines, their growth, and how sure that is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from shop import make_shop
from test_view_profile import MIB, SOURCE
from test_view_report import UTF8


@pytest.fixture(scope="module")
def recorded(lowtide_exe, tmp_path_factory):
    """recorded(name, shift, more, mode): a profile of app.py whose lines stand lower, and whose load() keeps more."""
    where = tmp_path_factory.mktemp("diff")

    def make(name: str, shift: int = 0, more: int = 0, mode: int = 1, source: str = "app.py") -> Path:
        (where / source).parent.mkdir(exist_ok=True)
        (where / source).write_text("#\n" * shift + SOURCE)
        interval = 524288 if mode == 1 else 0
        words = [where / name, where / source, mode, interval, shift, more]
        subprocess.run([lowtide_exe.parent / "profile_recording", *map(str, words)], check=True)
        return where / name

    return make


def sites(lowtide, *recordings):
    done = lowtide("diff", *recordings, "--json")
    assert done.status == 0, done.stderr
    return {site["function"]: site for site in json.loads(done.stdout)["sites"]}


def test_what_a_line_keeps_more_is_told_with_the_error_of_both(lowtide, recorded):
    a, b = recorded("a.tide"), recorded("b.tide", more=40)
    load = sites(lowtide, a, b)["load"]
    assert load["live_bytes"] == [72 * MIB, 112 * MIB]
    assert load["live_grown_bytes"] == 40 * MIB
    assert load["live_error_bytes"] == round(1.96 * (2 * 5**2 + 3 * 0.5**2) ** 0.5 * MIB)
    by_choice = 10 * 5**2 / (2 * 5**2 + 1)  # as in a report; one of the two peaks may be high by chance, the other not
    assert load["peak_error_bytes"] == round((1.96 * (2 * 5**2 + 3 * 0.5**2) ** 0.5 + by_choice) * MIB)
    assert (load["live_within_error"], load["peak_within_error"], load["line_before"]) == (False, True, None)
    shown = lowtide("diff", a, b, env=UTF8, cwd=a.parent).stdout
    assert shown.startswith("40.0 MiB ± 14.0 MiB more is alive at the end of what app.py:3 makes (load).")
    assert "  +40.0 MiB ± 14.0 MiB    112.0 MiB  app.py:3  load\n" in shown


def test_what_may_be_chance_is_said_to_be_within_error(lowtide, recorded):
    a, b = recorded("a.tide"), recorded("b.tide", more=9)
    assert sites(lowtide, a, b)["load"]["live_within_error"] is True
    shown = lowtide("diff", a, b, env=UTF8).stdout
    assert shown.startswith("No line grew by more than its error. In all: +9.0 MiB ± ")
    assert "1 more line, 1 within error" in shown
    exact = sites(lowtide, recorded("c.tide", mode=2), recorded("d.tide", mode=2, more=9))
    assert exact["load"]["live_within_error"] is False


def test_a_line_that_moved_is_found_by_its_function_and_text(lowtide, recorded):
    a, b = recorded("a.tide"), recorded("moved.tide", shift=5, more=40)
    load = sites(lowtide, a, b)["load"]
    assert (load["line"], load["line_before"], load["live_bytes"]) == (8, 3, [72 * MIB, 112 * MIB])
    assert "app.py:8 (was line 3)  load" in lowtide("diff", a, b, env=UTF8).stdout
    elsewhere = sites(lowtide, a, recorded("else.tide", shift=2, source="other/app.py"))["load"]
    assert (elsewhere["line"], elsewhere["line_before"]) == (5, 3)


def test_more_than_is_allowed_is_an_exit_status_for_a_check(lowtide, recorded):
    a, b = recorded("a.tide"), recorded("b.tide", more=40)
    done = lowtide("diff", a, b, "--fail-above", "20M")
    assert done.status == 1 and done.stderr.count("\n") == 1 and "above 20971520" in done.stderr
    assert lowtide("diff", a, b, "--fail-above", "39M").status == 0  # the error is taken off
    assert lowtide("diff", b, a, "--fail-above", "1").status == 0
    assert lowtide("diff", a, b, "--fail-above", "much").status == 2


def test_heaps_alone_and_profiles_alone_can_be_compared(lowtide, lowtide_exe, recorded, tmp_path):
    few, many = make_shop(lowtide_exe, tmp_path / "few.tide", 500), make_shop(lowtide_exe, tmp_path / "many.tide")
    assert sites(lowtide, few, many) == {}
    assert lowtide("diff", few, many, "--fail-above", "1K").status == 1
    assert sites(lowtide, recorded("a.tide"), few) == {}
    shown = lowtide("diff", recorded("a.tide"), recorded("b.tide", more=40), env=UTF8).stdout
    assert "GROWTH BY LINE" in shown and "GROWTH BY TYPE" not in shown


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_lines_fit_the_screen(lowtide, recorded, columns):
    a, b = recorded("a.tide"), recorded("moved.tide", shift=5, more=40)
    shown = lowtide("diff", a, b, env={**UTF8, "COLUMNS": str(columns)}).stdout
    assert max(map(len, shown.splitlines())) <= columns
