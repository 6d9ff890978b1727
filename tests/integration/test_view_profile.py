"""What lowtide report shows of an allocation profile, over a fixed recording whose figures are known."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import xxhash
from shop import make_shop
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
    order = [site["function"] for site in found["allocations"]["sites"]]
    assert sorted(order[3:]) == ["JSONDecoder.decode", "namedtuple"]
    assert order[:2] == ["parse", "load"] and order[2] in ("spin", "namedtuple")
    load, parse, spin = sites["load"], sites["parse"], sites["spin"]
    assert (load["file"], load["line"]) == (str(profile.parent / "app.py"), 3)
    assert (load["live_bytes"], load["live_blocks"], load["peak_bytes"]) == (72 * MIB, 1010, 88 * MIB)
    assert (parse["live_bytes"], parse["peak_bytes"], parse["line"]) == (0, 200 * MIB, 6)
    assert (spin["total_bytes"], spin["total_blocks"]) == (4096 * MIB, 1000000)
    by_samples = 1.96 * (5**2 + 3 * 0.5**2) ** 0.5  # three more samples than were seen
    by_choice = 10 * 5**2 / (2 * 5**2 + 1)  # the site's part of what the peak stands above the heap at the highest RSS
    assert load["live_error_bytes"] == round(by_samples * MIB)
    assert load["error_bytes"] == round((by_samples + by_choice) * MIB)
    assert load["rss_peak_error_bytes"] == round(by_samples * MIB)
    assert load["gone_error_bytes"] == round(1.96 * (3 * 0.5**2) ** 0.5 * MIB)


@pytest.mark.parametrize("columns, mark", [(100, " ± "), (63, " ±"), (40, " ±"), (40, " +-")])
def test_at_no_width_does_a_sampled_figure_stand_without_its_error(lowtide, profile, columns, mark):
    shown = lowtide("report", profile, env=UTF8 | {"COLUMNS": str(columns)} | ({"LC_ALL": "C"} if "+" in mark else {}))
    (peak,) = re.findall(r"^AT THE PEAK(.*?)^STILL ALIVE", shown.stdout, re.M | re.S)
    figures = [line for line in peak.splitlines()[2:] if re.match(r" +[\d.]+ [KM]?i?B", line)]
    assert len(figures) == 3  # parse, load, and the rest
    assert all(re.match(rf" +[\d.]+ MiB{re.escape(mark)}[\d.]+( MiB|M) ", line) for line in figures), figures
    assert max(map(len, peak.splitlines()[2:])) <= columns
    assert re.match(rf"  290\.0 MiB {re.escape(mark.strip())} 2\d\.\d MiB", peak)


def test_at_no_width_does_an_exact_figure_have_an_error(lowtide, lowtide_exe, tmp_path):
    subprocess.run([lowtide_exe.parent / "profile_recording", tmp_path / "a.tide", "/not/there.py", "2"], check=True)
    for columns in ("100", "40"):
        shown = lowtide("report", tmp_path / "a.tide", env=UTF8 | {"COLUMNS": columns}).stdout
        assert "AT THE PEAK" in shown and "±" not in shown
    sites = report(lowtide, tmp_path / "a.tide")["allocations"]["sites"]
    assert {site[key] for site in sites for key in site if key.endswith("error_bytes")} == {0}


def test_what_a_process_had_when_it_ended_is_not_alive_at_the_end(lowtide, profile):
    (load,) = [s for s in report(lowtide, profile)["allocations"]["sites"] if s["function"] == "load"]
    assert load["gone_bytes"] == 16 * MIB
    shown = lowtide("report", profile, env=UTF8).stdout
    assert "72.0 MiB" in shown.split("STILL ALIVE AT THE END")[1].split("GONE")[0].split("load")[0]
    assert "STILL ALIVE AT THE END  73.0 MiB" in shown
    assert "killed by signal 9" in shown


def test_a_line_of_a_library_is_told_with_the_programs_own_line_that_it_came_by(lowtide, profile):
    sites = {site["function"]: site for site in report(lowtide, profile)["allocations"]["sites"]}
    app = str(profile.parent / "app.py")
    assert sites["JSONDecoder.decode"]["from"] == {
        "file": app,
        "line": 6,
        "function": "parse",
        "source": "return json.loads(text * 200)",
    }
    assert sites["namedtuple"]["from"] == {
        "file": app,
        "line": 11,
        "function": "<module>",
        "source": None,
    }
    assert sites["parse"]["from"] is None
    shown = lowtide("report", profile, env=UTF8, cwd=profile.parent).stdout
    (below,) = re.findall(r"  json/decoder.py:337  JSONDecoder.decode\n +(.*)", shown.split("CHURN")[1])
    assert below == "from app.py:6  parse  return json.loads(text * 200)"


def test_a_line_whose_error_is_as_large_as_its_figure_is_only_added_up(lowtide, profile):
    shown = lowtide("report", profile, env=UTF8).stdout
    peak = shown.split("AT THE PEAK")[1].split("STILL ALIVE")[0]
    assert "… 2 more lines\n" in peak and "namedtuple" not in peak.split("… 2 more lines\n")[0]
    assert [s for s in report(lowtide, profile)["allocations"]["sites"] if s["function"] == "namedtuple"]


def test_the_line_to_change_stands_in_the_text_with_its_source(lowtide, profile):
    first, *rest = lowtide("report", profile, env=UTF8, cwd=profile.parent).stdout.splitlines()
    assert first.startswith(" 200.0 MiB  Make what app.py:6 makes piece by piece")
    assert "            made by app.py:6  parse  return json.loads(text * 200)" in rest


def test_collections_and_marks_stand_below_the_timeline(lowtide, profile):
    lines = lowtide("report", profile, env=UTF8).stdout.split("TIMELINE")[1].splitlines()
    row, axis = lines[7:9]
    assert row.strip().startswith("·") and row.rstrip().endswith("1")
    assert axis.split() == ["0.0", "s", "10.0", "s"]
    assert "1 garbage collection took 12.0 ms, the longest 12.0 ms, 1.5 s in (generation 2)" in "".join(lines)


@pytest.fixture(scope="module")
def peaked(lowtide_exe, tmp_path_factory):
    """The same profile with the heap at its peak: parse() made the rows that serve() has."""
    where = tmp_path_factory.mktemp("peaked")
    shop = make_shop(lowtide_exe, where / "shop.tide")
    words = [where / "app.tide", "/not/there/app.py", 1, 524288, 0, 0, shop]
    subprocess.run([lowtide_exe.parent / "profile_recording", *map(str, words)], check=True)
    return where / "app.tide"


def test_who_held_the_peak_is_told_of_lines_and_of_the_finding(lowtide, peaked):
    found = report(lowtide, peaked)
    rows = "thread MainThread > serve() > rows"
    sites = {site["function"]: site for site in found["allocations"]["sites"]}
    assert (sites["parse"]["peak_held_by"], sites["parse"]["peak_held_share"]) == (rows, 1)
    assert (sites["load"]["peak_held_by"], sites["parse"]["held_by"]) == (None, None)
    finding = found["findings"][0]
    assert finding["held_at_peak"] == rows
    assert "`del rows` in serve()" in finding["fix"]
    assert (found["peak"]["t_s"], found["peak"]["pid"]) == (6.5, 4711)
    assert [d["path"] for d in found["peak"]["dominators"]][:2] == ["__main__", "cache"]
    assert [d["made_at"] for d in found["peak"]["dominators"] if d["path"] == "cache"] == [[]]  # by nobody who is known
    assert found["heap"]["objects"] == 0
    shown = lowtide("report", peaked, env=UTF8).stdout
    assert f"            held at the peak by {rows}\n" in shown
    assert "HELD AT THE PEAK  who held the 46.5 MiB of Python objects at a peak, 6.5 s in" in shown


def test_without_a_heap_at_the_peak_nothing_is_said_of_who_held_it(lowtide, profile):
    found = report(lowtide, profile)
    assert found["peak"] is None and found["findings"][0]["held_at_peak"] is None
    assert "held at the peak" not in lowtide("report", profile).stdout.lower()


def test_a_heap_at_the_peak_that_is_damaged_leaves_the_rest_as_it_is(lowtide, peaked, tmp_path):
    data = bytearray(peaked.read_bytes())
    inner = data.rindex(b"\x8cTIDE\r\n\x1a")
    section = inner - 5 - 32
    assert data[section : section + 4] == b"SECT"
    for at in range(inner, len(data) - 40, 997):
        broken = tmp_path / "broken.tide"
        one = bytearray(data)
        one[at] ^= 0xFF
        payload = one[section + 32 : section + 32 + int.from_bytes(one[section + 16 : section + 20], "little")]
        one[section + 24 : section + 32] = xxhash.xxh3_64_intdigest(
            bytes(one[section : section + 24] + payload)
        ).to_bytes(8, "little")
        broken.write_bytes(one)
        assert report(lowtide, broken)["allocations"]["sites"]


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
    finding, kept = report(lowtide, profile)["findings"]
    assert finding["kind"] == "temporary-peak"
    # There is no heap: what stayed is told by its line alone.
    assert (kept["kind"], kept["site"]["line"], kept["site"]["function"]) == ("kept-memory", 3, "load")
    assert finding["site"] == {
        "file": str(profile.parent / "app.py"),
        "line": 6,
        "function": "parse",
        "source": "return json.loads(text * 200)",
    }
    assert finding["bytes"] == 200 * MIB
    assert "generator" in finding["fix"]


def test_a_temporary_peak_is_told_when_the_heap_was_at_its_highest_not_the_rss(lowtide, profile):
    found = report(lowtide, profile)
    assert found["memory"]["peak_at_s"] == 6.0
    # What it was once on its way up is no other peak.
    assert found["findings"][0]["title"].endswith(" that lived at the peak alone, 6.5 s in")


def test_people_read_the_source_of_the_lines_and_no_escape_sequence(lowtide, profile):
    done = lowtide("report", profile, env=UTF8)
    assert done.status == 0
    assert "return json.loads(text * 200)" in done.stdout
    for heading in ("TIMELINE", "PROCESSES", "AT THE PEAK", "STILL ALIVE AT THE END", "CHURN"):
        assert heading in done.stdout
    assert (
        "spin" in done.stdout.split("CHURN")[1] and "load" not in done.stdout.split("CHURN")[1].split("json.loads")[0]
    )
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_the_timeline_is_as_high_as_it_is_said_to_be(lowtide, lowtide_exe, tmp_path):
    """Over four hours a column has highs of two processes at different moments."""
    words = [tmp_path / "a.tide", "/not/there.py", 1, 524288, 0, 0, "-", 3]
    subprocess.run([lowtide_exe.parent / "profile_recording", *map(str, words)], check=True)
    for columns in (60, 100):
        shown = lowtide("report", tmp_path / "a.tide", env=UTF8 | {"COLUMNS": str(columns)}).stdout
        found = re.search(r"TIMELINE.*?highest\s+([\d.]+ MiB) .*?\n +([\d.]+ MiB)  ", shown, re.S)
        assert found is not None and found[1] == found[2] == "323.0 MiB", shown


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
