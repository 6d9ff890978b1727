"""lowtide sql over an allocation profile whose figures are known."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import tide_decoder
from test_view_profile import MIB, profile  # noqa: F401  a fixture

SITES = ("file", "line", "function", "live_bytes", "peak_bytes", "total_bytes", "gone_bytes")
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def ask(lowtide, profile):  # noqa: F811
    def run(query):
        done = lowtide("sql", profile, query, "--json")
        assert done.status == 0, done.stderr
        return json.loads(done.stdout)["rows"]

    return run


def test_sites_in_sql_are_those_of_the_report(ask, lowtide, profile):  # noqa: F811
    sites = json.loads(lowtide("report", profile, "--json").stdout)["allocations"]["sites"]
    assert ask(f"select {', '.join(SITES)} from sites order by id") == [[s[k] for k in SITES] for s in sites]
    assert ask("select live_error from sites where function = 'load'") == [
        [round(1.96 * (5**2 + 3 * 0.5**2) ** 0.5 * MIB)]
    ]
    assert ask("select from_line, from_function from sites where function = 'JSONDecoder.decode'") == [[6, "parse"]]
    assert ask("select from_line from sites where function = 'parse'") == [[None]]


def test_what_stacks_allocated_adds_up_to_their_sites(ask):
    assert (
        ask(
            "select * from (select site, sum(live_bytes), sum(peak_bytes), sum(total_blocks), sum(gone_blocks) "
            "from allocations group by 1) except select id, live_bytes, peak_bytes, total_blocks, gone_blocks from sites"
        )
        == []
    )
    assert ask("select domain, sum(gone_bytes) from allocations where process = 1 group by 1") == [["object", 16 * MIB]]


def test_stacks_lead_from_the_innermost_frame_outwards(ask):
    assert ask(
        "with recursive up(id, n) as (select 4, 0 union all select s.parent, n + 1 from up join stacks s on s.id = up.id "
        "where s.parent is not null) select s.kind, s.function, s.line from up join stacks s using (id) order by n"
    ) == [["native", "PyBytes_FromStringAndSize", None], ["python", "parse", 6], ["python", "<module>", 11]]


def test_processes_timeline_and_events_are_tables(ask):
    assert ask("select process, parent, pid, how, exit_status, mode, command from processes") == [
        [0, None, 4711, "started", 3, "sampled", "python app.py"],
        [1, 0, 4712, "forked", 137, "sampled", "python app.py"],
    ]
    assert ask("select max(rss_bytes), count(*) from timeline join processes using (process) where pid = 4711") == [
        [293 * MIB, 101]
    ]
    assert ask("select kind, t_s, duration_s, value, text from events") == [
        ["collection", 1.5, 0.012, 2, None],
        ["mark", 2.0, 0.0, 0, "loaded \x1b[31m"],
    ]


def test_look_ups_by_number_give_their_row_alone(ask):
    assert ask("select function from sites where id = 0") == [["parse"]]
    assert ask("select count(*) from sites where id = 99 or id = -1 or id = null") == [[0]]
    assert ask("select s.id, t.id from stacks s join sites t on t.id = s.site where s.id = 4") == [[4, 0]]


def test_the_examples_of_the_documentation_run(lowtide, profile):  # noqa: F811
    queries = re.findall(r'^lowtide sql F "(.*)"$', (DOCS / "sql.md").read_text(), re.M)
    assert len(queries) >= 9
    for query in queries:
        done = lowtide("sql", profile, query)
        assert done.status == 0, (query, done.stderr)


PROGRAM = """
import gc, lowtide, mmap
class Node: pass
kept = [[i] for i in range(200_000)]
large, mapped, zeros = bytearray(4_000_000), mmap.mmap(-1, 1 << 20), bytes(4_000_000)
lowtide.mark("made")
gc.collect()
opened = open(__file__)
"""


def test_every_table_and_column_of_a_recording_is_in_sql_or_its_omission_has_a_reason(lowtide, tmp_path):
    (tmp_path / "app.py").write_text(PROGRAM)
    out = tmp_path / "t.tide"
    words = ["--no-report", "--native", "-o", out, "--python", sys.executable, tmp_path / "app.py"]
    assert lowtide("run", *words).status == 0
    held = tide_decoder.read_recording(out.read_bytes()).tables
    # Those of format.md, of which a program like this one has all.
    section = (DOCS / "format.md").read_text().split("## Tables")[1].split("## Nested recordings")[0]
    rows = section.split("| table | key")[1].split("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", rows, re.M)
    assert {name for name, _, _ in named} == set(held)
    tables = json.loads(lowtide("sql", out, "--json").stdout)["tables"]
    in_sql = {(table["name"], column["name"]) for table in tables for column in table["columns"]}
    left = (DOCS / "sql.md").read_text().split("# What has another name, or is left out")[1]
    omitted = set(re.findall(r"`(\w+)\.(\w+)`(?=[^|\n]*\|[^|\n]+\|$)", left, re.M))
    for name, key, text in named:
        for column in held[name][0]:
            assert re.search(rf"\b{column}\b", f"{key} {text}"), f"format.md has no {name}.{column}"
            table = "stacks" if name == "frames" else name
            there = {(table, column), (table, re.sub("_us$", "_s", column))} & in_sql
            assert bool(there) != ((name, column) in omitted), (name, column)
    assert omitted <= {(name, column) for name in held for column in held[name][0]}
    # What a table holds comes out as it is.
    ask = json.loads(lowtide("sql", out, "select count(*), sum(bytes) from blocks", "--json").stdout)["rows"]
    assert ask == [[len(held["blocks"]), sum(row["bytes"] for row in held["blocks"])]]
    ask = json.loads(lowtide("sql", out, "select t_s, live_bytes, file is null from lines", "--json").stdout)["rows"]
    assert ask == [[row["t_us"] / 1e6, row["live_bytes"], row["frame"] == 0] for row in held["lines"]]
