"""What lowtide report shows of an allocation profile, over a fixed recording whose figures are known."""

from __future__ import annotations

import json
import subprocess

import pytest
from test_view_report import SCHEMA, UTF8, validate

MIB = 1 << 20
SOURCE = """import json
def load():
    return [bytes(64) for _ in range(1000)]

def parse(text):
    return json.loads(text * 200)

def spin():
    return sum(len(str(i)) for i in range(10**6))

load(); parse("[]"); spin()
"""


@pytest.fixture(scope="module")
def profile(lowtide_exe, tmp_path_factory):
    """A recording without a heap: load() made 88 MiB that live, parse() 200 MiB at the peak, spin() churned."""
    where = tmp_path_factory.mktemp("profile")
    (where / "app.py").write_text(SOURCE)
    path = where / "app.tide"
    subprocess.run([lowtide_exe.parent / "profile_recording", path, where / "app.py"], check=True)
    return path


def report(lowtide, path, *options):
    done = lowtide("report", path, "--json", *options)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    validate(found, SCHEMA)
    return found


def test_the_report_of_a_profile_tells_each_line_with_its_figures_and_error(lowtide, profile):
    found = report(lowtide, profile)
    sites = {site["function"]: site for site in found["allocations"]["sites"]}
    assert found["allocations"]["mode"] == "sampled"
    assert found["allocations"]["interval_bytes"] == 524288
    assert [site["function"] for site in found["allocations"]["sites"]] == ["parse", "load", "spin"]
    load, parse, spin = sites["load"], sites["parse"], sites["spin"]
    assert (load["file"], load["line"]) == (str(profile.parent / "app.py"), 3)
    assert (load["live_bytes"], load["live_blocks"], load["peak_bytes"]) == (88 * MIB, 1260, 88 * MIB)
    assert (parse["live_bytes"], parse["peak_bytes"], parse["line"]) == (0, 200 * MIB, 6)
    assert (spin["total_bytes"], spin["total_blocks"]) == (4096 * MIB, 1000000)
    assert load["error_bytes"] == round(1.96 * 5 * MIB)


def test_a_native_frame_belongs_to_the_python_line_that_called_it(lowtide, profile):
    assert not [s for s in report(lowtide, profile)["allocations"]["sites"] if "libpython" in s["file"]]


def test_the_report_tells_processes_the_peak_and_the_timeline(lowtide, profile):
    found = report(lowtide, profile)
    assert [(p["pid"], p["parent_pid"], p["exit_status"]) for p in found["processes"]] == [
        (4711, None, 3),
        (4712, 4711, 128 + 9),
    ]
    assert found["process"]["exit_status"] == 3
    assert found["memory"]["peak_at_s"] == 6
    assert len(found["memory"]["timeline"]) == 101 + 71
    assert max(point["rss_bytes"] for point in found["memory"]["timeline"]) == 293 * MIB


def test_what_was_alive_only_at_the_peak_is_a_finding_with_its_line(lowtide, profile):
    (finding,) = report(lowtide, profile)["findings"]
    assert finding["kind"] == "temporary-peak"
    assert finding["site"] == {"file": str(profile.parent / "app.py"), "line": 6, "function": "parse"}
    assert finding["bytes"] == 200 * MIB
    assert "generator" in finding["fix"]


def test_people_read_the_source_of_the_lines_and_no_escape_sequence(lowtide, profile):
    done = lowtide("report", profile, env=UTF8)
    assert done.status == 0
    assert "return json.loads(text * 200)" in done.stdout
    for heading in ("TIMELINE", "PROCESSES", "AT THE PEAK", "STILL ALIVE AT THE END", "CHURN"):
        assert heading in done.stdout
    assert done.stdout.split("CHURN")[1].count("app.py") == 1
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_a_report_without_the_sources_is_as_good_but_for_their_text(lowtide, lowtide_exe, tmp_path):
    subprocess.run([lowtide_exe.parent / "profile_recording", tmp_path / "a.tide", "/not/there.py", "2"], check=True)
    done = lowtide("report", tmp_path / "a.tide", env=UTF8)
    assert "/not/there.py:6" in done.stdout
    assert "±" not in done.stdout.split("AT THE PEAK")[1]


def test_a_profile_cut_anywhere_is_read_or_refused_in_one_line(lowtide, profile, tmp_path):
    data = profile.read_bytes()
    for at in range(40, len(data), 97):
        cut = tmp_path / "cut.tide"
        cut.write_bytes(data[:at])
        done = lowtide("report", cut, "--json")
        if done.status == 0:
            validate(json.loads(done.stdout), SCHEMA)
        else:
            assert done.status == 1 and done.stderr.count("\n") == 1
