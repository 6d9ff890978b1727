"""The page of `lowtide report --html`, as Chromium shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

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
        assert finding["fix"] in dom
    assert found["heap"]["types"][0]["type"] in dom
