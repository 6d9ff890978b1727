"""lowtide report, why and diff over the fixed recording: exact text at several widths, and JSON.

LOWTIDE_GOLDEN=write writes tests/golden/view/ anew; read what changed before it is committed.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from shop import make_shop, on_terminal

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden/view"
SCHEMA = json.loads((TESTS / "report.schema.json").read_text())
UTF8 = {"LC_ALL": "C.UTF-8", "COLUMNS": "100"}


@pytest.fixture(scope="module")
def shops(lowtide_exe, tmp_path_factory):
    """A directory with three recordings of a growing shop and a hostile one, named as in the golden texts."""
    where = tmp_path_factory.mktemp("shops")
    for i, sessions in enumerate((1000, 2000, 3000), 1):
        make_shop(lowtide_exe, where / f"shop-{i}.tide", sessions)
    make_shop(lowtide_exe, where / "hostile.tide", 3, hostile=True)
    (where / "cut.tide").write_bytes((where / "shop-3.tide").read_bytes()[:-6000])
    return where


def is_type(value, name):
    if isinstance(value, bool):
        return name == "boolean"
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    return isinstance(value, kinds[name])


def validate(value, schema, where="$"):
    """As much of JSON Schema as report.schema.json uses."""
    known = {"type", "enum", "required", "additionalProperties", "properties", "items", "minimum", "$schema", "title"}
    assert set(schema) <= known
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    assert not types or any(is_type(value, name) for name in types), (where, value)
    assert "enum" not in schema or value in schema["enum"], (where, value)
    if is_type(value, "number") and "minimum" in schema:
        assert value >= schema["minimum"], where
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        assert set(schema.get("required", [])) <= set(value), where
        assert schema.get("additionalProperties", True) or set(value) <= set(properties), where
        for key in set(value) & set(properties):
            validate(value[key], properties[key], f"{where}.{key}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            validate(item, schema.get("items", {}), f"{where}[{i}]")


def cells(line):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


CALLS = {
    "report": ["report", "shop-1.tide"],
    "report-by-package": ["report", "shop-1.tide", "--by", "package", "--top", "3"],
    "report-cut": ["report", "cut.tide", "--top", "3"],
    "report-hostile": ["report", "hostile.tide"],
    "why-object": ["why", "shop-1.tide", "cache['u17'].history[3]"],
    "why-type": ["why", "shop-1.tide", "Session"],
    "why-hostile": ["why", "hostile.tide", "ndarray"],
    "diff": ["diff", "shop-1.tide", "shop-2.tide", "shop-3.tide"],
    "sql-types": ["sql", "shop-1.tide", "select * from types"],
}


def check_golden(name, text):
    path = GOLDEN / name
    if os.environ.get("LOWTIDE_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("columns", [60, 100, 160])
@pytest.mark.parametrize("name", CALLS)
def test_text_is_exactly_this_and_fits_the_width(lowtide, shops, name, columns):
    done = lowtide(*CALLS[name], cwd=shops, env={**UTF8, "COLUMNS": str(columns)})
    assert (done.status, done.stderr) == (0, "")
    check_golden(f"{name}.{columns}.txt", done.stdout)
    assert all(cells(line) <= columns for line in done.stdout.splitlines() if not name.startswith("sql"))
    assert not re.search(r"[ \t]$", done.stdout, flags=re.M)


@pytest.mark.parametrize("columns", [1, 40, 41, 79, 120, 250, 4000])
@pytest.mark.parametrize("name", CALLS)
def test_text_fits_any_width(lowtide, shops, name, columns):
    done = lowtide(*CALLS[name], cwd=shops, env={**UTF8, "COLUMNS": str(columns)})
    assert done.status == 0
    if not name.startswith("sql"):
        assert all(cells(line) <= min(max(columns, 40), 250) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", CALLS)
def test_text_is_ascii_where_the_locale_is(lowtide, shops, name):
    done = lowtide(*CALLS[name], cwd=shops, env={"LC_ALL": "C", "COLUMNS": "100"})
    assert done.status == 0
    assert done.stdout.isascii()
    if name == "report":
        check_golden("report.ascii.txt", done.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_steers_the_terminal(lowtide_exe, shops, name):
    call = [lowtide_exe, *(shops / word if word.endswith(".tide") else word for word in CALLS[name])]
    status, said = on_terminal(call)
    assert status == 0
    plain = re.sub(r"\x1b\[\d+m", "", said)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", plain)
    assert all(cells(line) <= 100 for line in plain.splitlines())


def test_the_first_line_says_what_to_change_and_what_that_returns(lowtide, shops):
    findings = json.loads(lowtide("report", "shop-3.tide", "--json", cwd=shops).stdout)["findings"]
    text = lowtide("report", "shop-3.tide", cwd=shops, env=UTF8).stdout
    assert findings
    size, fix = re.match(r" *([\d.]+ [KMG]?i?B)  (.*)\n", text).groups()
    assert findings[0]["fix"].lower().startswith(fix.lower())
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}[size.split()[1]]
    assert float(size.split()[0]) == pytest.approx(findings[0]["bytes"] / unit, abs=0.06)


@pytest.mark.parametrize("file", ["shop-1.tide", "hostile.tide", "cut.tide"])
def test_json_keeps_schema_1(lowtide, shops, file):
    done = lowtide("report", file, "--json", "--by", "package", cwd=shops)
    assert done.status == 0
    report = json.loads(done.stdout)
    validate(report, SCHEMA)
    assert list(report) == SCHEMA["required"]
    assert sum(line["bytes"] for line in report["ledger"]) == report["memory"]["rss_bytes"] == 134217728
    assert (report["cut"] is not None) == (file == "cut.tide")
    by_bytes = [finding["bytes"] for finding in report["findings"]]
    assert by_bytes == sorted(by_bytes, reverse=True)
    for i, line in enumerate(report["heap"]["dominators"]):
        assert line["parent"] is None or line["parent"] != i


def test_json_tells_the_process_and_its_heap(lowtide, shops):
    report = json.loads(lowtide("report", "shop-1.tide", "--json", cwd=shops).stdout)
    assert report["process"] == {
        "pid": 4711,
        "command": ["python", "/srv/shop/app.py", "--port", "8000"],
        "python": "3.13.0",
        "started": "2026-11-21T07:37:56Z",
        "duration_s": 8037,
        "exit_status": None,
    }
    heap = report["heap"]
    assert (heap["objects"], heap["unreachable_objects"], heap["unreachable_bytes"]) == (8422, 200, 12400 + 50 * 65536)
    types = {one["type"]: one for one in heap["types"]}
    assert types["int"] == {"type": "int", "count": 4000, "shallow_bytes": 112000, "retained_bytes": 112000}
    assert not any(name.startswith("<") for name in types)
    assert report["capture"]["file_bytes"] == (shops / "shop-1.tide").stat().st_size


def test_top_bounds_each_list(lowtide, shops):
    report = json.loads(lowtide("report", "shop-1.tide", "--json", "--top", "2", cwd=shops).stdout)
    assert len(report["heap"]["types"]) == len(report["heap"]["dominators"]) == 2


def test_a_cut_recording_is_told_at_the_top(lowtide, shops):
    text = lowtide("report", "cut.tide", cwd=shops).stdout
    assert "cut" in text.splitlines()[0]
    assert lowtide("why", "cut.tide", "cache", cwd=shops).status == 0


def test_why_answers_an_object_by_path_and_by_address(lowtide, shops):
    by_path = json.loads(lowtide("why", "shop-1.tide", "cache['u17']", "--json", cwd=shops).stdout)
    assert by_path["object"] == "cache['u17']"
    assert by_path["type"] == "__main__.Session"
    assert (by_path["retained_bytes"], by_path["retained_objects"]) == (24404, 7)
    assert [path["path"] for path in by_path["paths"]] == ["cache['u17']"]
    assert by_path["paths"][0]["expression"]
    assert by_path["paths"][0]["steps"][-1]["address"] == by_path["address"]
    by_address = lowtide("why", "shop-1.tide", by_path["address"], "--json", cwd=shops)
    assert json.loads(by_address.stdout) == by_path


def test_why_answers_a_type_by_the_kinds_of_path(lowtide, shops):
    answer = json.loads(lowtide("why", "shop-1.tide", "Session", "--json", cwd=shops).stdout)
    assert answer["object"] is None
    assert (answer["type"], answer["count"]) == ("__main__.Session", 1000)
    assert [path["count"] for path in answer["paths"]] == [1000]
    assert answer["paths"][0]["through"] == "cache"


def test_why_avoids_what_it_is_told_to(lowtide, shops):
    answer = json.loads(lowtide("why", "shop-1.tide", "cache['u17']", "--avoid", "cache", "--json", cwd=shops).stdout)
    assert answer["paths"] == []
    assert "avoid" in lowtide("why", "shop-1.tide", "cache['u17']", "--avoid", "cache", cwd=shops).stdout
    answer = json.loads(lowtide("why", "shop-1.tide", "str", "--avoid", "cache", "--json", cwd=shops).stdout)
    assert sum(path["count"] for path in answer["paths"]) == 206
    assert answer["without_path"] == 2000
    every = lowtide("why", "shop-1.tide", "int", "--avoid", "Session", cwd=shops).stdout
    assert "Nothing leads to any of them but what is to be avoided." in every


def test_why_says_what_it_does_not_find_in_one_line(lowtide, shops):
    for what in ("nope", "cache['nope']", "0x1", "", "cache[", "\x1b[31m", "é" * 3000):
        done = lowtide("why", "shop-1.tide", what, cwd=shops)
        assert (done.status, done.stdout) == (1, ""), what
        assert re.fullmatch(r"lowtide: [^\n\x1b]+\n", done.stderr)


def test_diff_tells_what_grew_and_what_grew_every_time(lowtide, shops):
    answer = json.loads(lowtide("diff", "shop-1.tide", "shop-2.tide", "shop-3.tide", "--json", cwd=shops).stdout)
    assert [one["objects"] for one in answer["recordings"]] == [8422, 16422, 24422]
    types = {one["type"]: one for one in answer["types"]}
    assert types["__main__.Session"]["grown_count"] == 2000
    assert types["__main__.Session"]["steady"]
    assert types["int"]["count"] == [4000, 8000, 12000]
    assert "numpy.ndarray" not in types
    paths = {one["path"]: one for one in answer["paths"]}
    assert paths["cache"]["grown_bytes"] > 700000


def test_diff_of_a_recording_with_itself_finds_nothing(lowtide, shops):
    answer = json.loads(lowtide("diff", "shop-1.tide", "shop-1.tide", "--json", cwd=shops).stdout)
    assert (answer["types"], answer["paths"], answer["findings"]) == ([], [], [])
    assert lowtide("diff", "shop-1.tide", "shop-1.tide", cwd=shops).status == 0
