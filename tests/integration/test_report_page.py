"""The page of `lowtide report --html`, as Chromium shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shop import make_shop

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page(lowtide_exe, tmp_path):
    recording = make_shop(lowtide_exe, tmp_path / "shop.tide", hostile=True)
    to = tmp_path / "shop.html"
    done = subprocess.run([lowtide_exe, "report", recording, "--html", to], capture_output=True, text=True)
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return recording, to


def shown(path: Path, home: Path) -> str:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to look at the page with")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}"]
    words += ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=True).stdout


def test_the_page_holds_the_report_and_fetches_nothing(page, lowtide_exe):
    recording, to = page
    text = to.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data is not None
    report = subprocess.run([lowtide_exe, "report", recording, "--json"], capture_output=True, check=True).stdout
    assert json.loads(data[1])["report"] == json.loads(report)
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', text)


def test_chromium_shows_each_finding_with_its_fix(page, tmp_path, lowtide_exe):
    recording, to = page
    dom = html.unescape(shown(to, tmp_path / "home").split("<script", 1)[0])
    report = subprocess.run([lowtide_exe, "report", recording, "--json"], capture_output=True, check=True).stdout
    found = json.loads(report)
    assert found["findings"]
    for finding in found["findings"]:
        assert finding["fix"][1:] in dom  # its first letter may be a capital
    assert found["heap"]["types"][0]["type"] in dom


def test_chromium_shows_why_there_is_no_heap(tmp_path, lowtide_exe):
    (tmp_path / "app.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    recording, to = tmp_path / "a.tide", tmp_path / "a.html"
    words = ["run", "--no-report", "-o", recording, "--python", sys.executable, tmp_path / "app.py"]
    subprocess.run([lowtide_exe, *words], capture_output=True, check=False)
    done = subprocess.run([lowtide_exe, "report", recording, "--html", to], capture_output=True, text=True)
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    dom = html.unescape(shown(to, tmp_path / "home").split("<script", 1)[0])
    assert "No heap was captured: " in dom and "app.py was ended by SIGTERM. " in dom
    assert "Nothing to change" not in dom


@pytest.fixture(scope="module")
def huge(lowtide_exe, tmp_path_factory):
    """A million stacks and four hours of two processes, with a collection a second."""
    where = tmp_path_factory.mktemp("huge")
    words = [where / "huge.tide", "/srv/app/app.py", 1, 524288, 0, 0, "-", 1_000_000]
    subprocess.run([lowtide_exe.parent / "profile_recording", *map(str, words)], check=True)
    done = subprocess.run(
        [lowtide_exe, "report", where / "huge.tide", "--html", where / "huge.html"], capture_output=True, text=True
    )
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    assert (done.returncode, done.stderr) == (0, "")
    return where / "huge.html"


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_of_a_huge_recording_is_cut_by_thresholds_that_it_states(huge):
    assert huge.stat().st_size < 4 << 20
    data = data_of(huge)
    tree, moments, events = data["tree"], data["moments"], data["events"]
    assert 1000 < len(tree["parent"]) <= 20_000
    assert all(parent < i for i, parent in enumerate(tree["parent"]) if i)
    assert 1000 < len(moments["t_s"]) <= 2000 and moments["t_s"] == sorted(moments["t_s"])
    assert len(events) <= 2000 and events[-1]["t_s"] > 3 * 3600
    # What is folded is still counted: the whole is the sum of the recording.
    sites = data["report"]["allocations"]["sites"]
    assert tree["peak"][0] >= sum(site["peak_bytes"] for site in sites)
    kept = [i for i, name in enumerate(tree["name"]) if tree["texts"][name] == "function_0"]
    assert kept and all(tree["peak"][i] >= tree["threshold_bytes"] for i in kept)


def test_processes_together_are_one_line_over_time(lowtide_exe, tmp_path):
    subprocess.run([lowtide_exe.parent / "profile_recording", tmp_path / "p.tide", "/srv/app/app.py"], check=True)
    done = subprocess.run(
        [lowtide_exe, "report", tmp_path / "p.tide", "--html", tmp_path / "p.html"], capture_output=True, text=True
    )
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    moments = data_of(tmp_path / "p.html")["moments"]
    assert max(moments["rss_bytes"]) == (293 + 30) << 20
    at = [moments["rss_bytes"][i] for i, t in enumerate(moments["t_s"]) if t > 9.2]
    assert set(at) == {92 << 20}  # the second has ended


def test_chromium_draws_a_huge_recording(huge, tmp_path):
    dom = shown(huge, tmp_path / "home")
    page = html.unescape(dom.split('<script type="application/json"', 1)[0])
    assert "Lines that make the memory" in page and "function_0" in page
    assert (
        "one in 512.0 KiB: a frame of 10.0 MiB may be off by 4.7 MiB, one of 100.0 MiB by 14.0 MiB, at the peak" in page
    )
    assert page.count("<rect") > 100  # frames of the flame graph


def test_chromium_shows_what_is_in_many_small_lines_by_function(lowtide_exe, tmp_path):
    (tmp_path / "app.py").write_text("def build(k):\n" + " k.append(bytes(60_000))\n" * 1500 + "K = []\nbuild(K)\n")
    recording, to = tmp_path / "a.tide", tmp_path / "a.html"
    words = ["run", "--exact", "--no-report", "-o", recording, "--python", sys.executable, tmp_path / "app.py"]
    subprocess.run([lowtide_exe, *words], capture_output=True, check=True)
    done = subprocess.run([lowtide_exe, "report", recording, "--html", to], capture_output=True, text=True)
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    dom = html.unescape(shown(to, tmp_path / "home").split('<script type="application/json"', 1)[0])
    (peak,) = re.findall(r"<h2>Many small lines, by function: at the peak</h2>.*?</table>", dom, re.S)
    assert "build" in peak and "1,500" in peak and re.search(r"8\d\.\d MiB", peak)
    assert "Many small lines, by function: alive at the end" in dom


def test_chromium_shows_which_findings_name_the_same_bytes(lowtide_exe, tmp_path):
    (tmp_path / "app.py").write_text("""
def work():
    rows = [str(i) for i in range(1000)]
    raise ValueError
errors = []
for i in range(400):
    try: work()
    except ValueError as e: errors.append(e)
""")
    recording, to = tmp_path / "a.tide", tmp_path / "a.html"
    words = ["run", "--no-profile", "--no-report", "-o", recording, "--python", sys.executable, tmp_path / "app.py"]
    subprocess.run([lowtide_exe, *words], capture_output=True, check=True)
    done = subprocess.run([lowtide_exe, "report", recording, "--html", to], capture_output=True, text=True)
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    dom = html.unescape(shown(to, tmp_path / "home").split('<script type="application/json"', 1)[0])
    assert dom.count("part of finding 1: their bytes do not add up") == 1


def test_chromium_shows_what_the_text_report_says_with_the_same_figures(lowtide_exe, tmp_path):
    recording, to = tmp_path / "p.tide", tmp_path / "p.html"
    subprocess.run([lowtide_exe.parent / "profile_recording", recording, "/srv/app/app.py"], check=True)
    recording.write_bytes(recording.read_bytes()[:-20])  # cut, so that its END is missing
    done = subprocess.run([lowtide_exe, "report", recording, "--html", to], capture_output=True, text=True)
    if "built without its page" in done.stderr:
        pytest.skip("this build has no page: Node.js was missing")
    dom = html.unescape(shown(to, tmp_path / "home").split('<script type="application/json"', 1)[0])
    words = " ".join(re.sub(r"<[^>]*>", " ", dom).split())
    text = subprocess.run([lowtide_exe, "report", recording], capture_output=True, text=True, check=True).stdout
    assert " ".join(text.split("\n\n")[0].split()) in words  # where it was cut
    (figure,) = re.findall(r"^ +(200\.0 MiB)  Make what", text, re.M)
    assert f">{figure}</span>" in dom and "200 MiB" not in words
    # What went with the process that was killed.
    assert re.search(r'data-title="gone with ended processes"[^>]*>16\.0 MiB', dom)
