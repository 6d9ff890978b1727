"""lowtide sql: the recording as tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shop import make_shop, on_terminal

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def shop(lowtide_exe, tmp_path_factory):
    return make_shop(lowtide_exe, tmp_path_factory.mktemp("sql") / "shop.tide")


@pytest.fixture
def ask(lowtide, shop):
    def run(query):
        done = lowtide("sql", shop, query, "--json")
        assert done.status == 0, done.stderr
        return json.loads(done.stdout)["rows"]

    return run


def test_every_table_and_column_is_in_the_documentation(lowtide, shop):
    tables = json.loads(lowtide("sql", shop, "--json").stdout)["tables"]
    page = (DOCS / "sql.md").read_text()
    sections = re.split(r"^## ", page, flags=re.M)
    assert len(tables) == 23
    for table in tables:
        section = next(s for s in sections if table["name"] in re.split(r"[,:]\s*", s.split("\n")[0]))
        for column in table["columns"]:
            assert f"`{column['name']}`" in section, (table["name"], column["name"])


def test_every_column_of_every_table_can_be_asked_for(lowtide, shop, ask):
    tables = json.loads(lowtide("sql", shop, "--json").stdout)["tables"]
    assert not any(ask(f"select count(*) from {table['name']}")[0][0] for table in tables[9:])
    for table in tables[:9]:
        for column in table["columns"]:
            assert len(ask(f"select {column['name']} from {table['name']} limit 3")) >= 1


def test_objects_are_counted_sized_and_valued(ask):
    assert ask("select count(*), sum(size), sum(buffers) from objects where type = 'numpy.ndarray'") == [
        [1, 112, 8 << 20]
    ]
    assert ask("select value from objects where type = 'int' order by value limit 3") == [[0], [1], [2]]
    assert ask("select value, length from objects where type = 'str' and value = 'u17'") == [["u17", 3]] * 2
    assert ask("select count(*) from objects where refcount is null and immortal") == [[6]]
    assert ask("select type, retained from objects where held_by_c") == [["list", 12582968]]
    assert ask("select count(*), sum(size) from objects where garbage") == [[200, 12400]]


def test_types_agree_with_their_objects(ask):
    assert (
        ask(
            "select t.type from types t join (select type, count(*) n, sum(size + buffers) bytes from objects "
            "group by type) o using (type) where o.n <> t.count or o.bytes <> t.shallow"
        )
        == []
    )


def test_retained_bytes_add_up_along_the_dominator_tree(ask):
    assert ask(
        "select count(*) from dominators d where retained <> shallow + "
        "(select ifnull(sum(c.retained), 0) from dominators c where c.idom = d.id) and d.retained_objects < 100"
    ) == [[0]]
    assert ask(
        "select count(*), sum(d.shallow) from dominators top join dominators d on d.preorder between top.preorder "
        "and top.preorder + top.retained_objects - 1 where top.type = '__main__.Session' and top.id = "
        "(select min(id) from objects where type = '__main__.Session')"
    ) == [[7, 24403]]


def test_references_are_found_from_both_ends(ask):
    forward = ask("select * from refs where source in (select id from objects where type = '__main__.Session')")
    assert len(forward) == 3000
    assert {(kind, name) for _, _, kind, name, _ in forward} == {
        ("class", None),
        ("attribute", "user"),
        ("attribute", "history"),
    }
    for source, target, kind, name, position in forward[:30]:
        assert [source, target, kind, name, position] in ask(f"select * from refs where target = {target}")
    assert ask(
        "select position from refs where kind = 'index' and source = (select target from refs where "
        "name = 'history' limit 1)"
    ) == [[0], [1], [2], [3]]


def test_look_ups_give_what_a_scan_gives(ask):
    [[id, address]] = ask("select id, address from objects where value = 'matrix'")
    assert ask(f"select id from objects where address = {hex(address)}") == [[id]]
    assert ask(f"select id from objects where id = '{id}'") == [[id]]
    assert ask("select id from objects where id = 1.5 or id = -1 or id = 4294967295 or address = 1") == []
    assert ask("select count(*) from objects where type = 'INT' collate nocase") == [[4000]]
    assert ask("select count(*) from objects where idom = (select idom from objects where value = 'u17' limit 1)")[0][0]
    assert ask("select id from objects where id = null or type = null") == []


def test_paths_lead_to_their_objects(ask):
    [[path, expression]] = ask(
        "select path, expression from paths where id = (select r.target from refs r where r.name = 'history' limit 1)"
    )
    assert path == "cache['u0'].history"
    assert expression == 1
    [[frame]] = ask("select path from objects join paths using (id) where type = 'list' and retained = 20656")
    assert frame == "thread MainThread > serve() > rows"


def test_threads_frames_and_modules_are_named(ask):
    assert ask("select name from threads") == [["MainThread"]]
    assert ask("select function, file, line from frames") == [["serve", "shop.py", 42]]
    assert ask("select name from modules") == [["__main__"]]
    assert ask("select value from meta where key = 'pid'") == [["4711"]]


@pytest.mark.parametrize(
    "query",
    [
        "selec",
        "select nope from objects",
        "select * from nowhere",
        "",
        "  ;",
        "select 1; select 2",
        "attach 'x.db' as x",
        "create table t(x)",
        "create temp table t(x)",
        "insert into meta values ('a', 'b')",
        "delete from objects",
        "drop table meta",
        "pragma temp_store_directory = '/'",
        "vacuum into 'x.db'",
        "begin",
        "select load_extension('x.so')",
        "select * from pragma_database_list",
        "select writefile('x', 'y')",
    ],
)
def test_a_bad_query_is_one_line_and_touches_nothing(lowtide, shop, tmp_path, query):
    done = lowtide("sql", shop, query, cwd=tmp_path)
    assert done.status == 1
    assert done.stdout == ""
    assert re.fullmatch(r"lowtide: [^\n]+\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_fails_on_its_way_is_one_line(lowtide, shop):
    done = lowtide("sql", shop, "select abs(iif(id < 5, id, -9223372036854775807 - 1)) from objects")
    assert done.status == 1
    assert re.fullmatch(r"lowtide: integer overflow[^\n]+\n", done.stderr)


def test_text_is_aligned(lowtide, shop):
    done = lowtide("sql", shop, "select type, count, null n from types where count between 100 and 4000 order by 1")
    assert done.stdout == (
        "type              count  n\n"
        "__main__.Node       100  NULL\n"
        "__main__.Session   1000  NULL\n"
        "int                4000  NULL\n"
        "list               1102  NULL\n"
        "str                2206  NULL\n"
    )


def test_csv_is_quoted(lowtide, shop):
    done = lowtide("sql", shop, "select 'a,b' x, 'q\"' y, null z, x'00ff' b, 'l\nm' l", "--csv")
    assert done.stdout == 'x,y,z,b,l\n"a,b","q""",,x\'00ff\',"l\nm"\n'


def test_json_keeps_what_json_can(lowtide, shop):
    done = lowtide("sql", shop, "select 9223372036854775807 i, 1e400 f, x'00ff' b, 'é\x01' t", "--json")
    assert json.loads(done.stdout) == {
        "schema": 1,
        "columns": ["i", "f", "b", "t"],
        "rows": [[9223372036854775807, None, "x'00ff'", "é\x01"]],
    }


def test_a_line_fits_the_terminal_and_a_pipe_gets_all(lowtide, lowtide_exe, shop):
    query = "select printf('%.200c', 'x') a, 1 b"
    assert "x" * 200 in lowtide("sql", shop, query).stdout
    status, said = on_terminal([lowtide_exe, "sql", shop, query], columns=60)
    assert status == 0
    assert all(len(re.sub(r"\x1b\[\d+m", "", line)) <= 60 for line in said.splitlines())


def test_a_hostile_recording_cannot_steer_the_terminal(lowtide_exe, tmp_path):
    shop = make_shop(lowtide_exe, tmp_path / "hostile.tide", 3, hostile=True)
    for format in ([], ["--csv"]):
        for query in ("select type, value from objects", "select path from paths", "select * from meta"):
            status, said = on_terminal([lowtide_exe, "sql", shop, query, *format])
            assert status == 0
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", re.sub(r"\x1b\[\d+m", "", said))
