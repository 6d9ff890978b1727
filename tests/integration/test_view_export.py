"""lowtide export: each format opened by its reader, or by one that follows its description."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_view_profile import MIB, profile  # noqa: F401  a fixture

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FORMATS = ["pprof", "speedscope", "collapsed", "csv", "perfetto"]


def export(lowtide, path, *options):
    done = lowtide("export", path, *options)
    assert done.status == 0, done.stderr
    return done.stdout


# Two seconds, but for the first time on a machine: Go builds its pprof then.
@pytest.mark.skipif(not shutil.which("go"), reason="go is not installed: apt install golang-go")
@pytest.mark.parametrize(
    ("index", "at", "most", "mebibytes"),
    [("inuse_space", "end", "load", 72), ("inuse_space", "peak", "parse", 200), ("alloc_space", "end", "spin", 4096)],
)
def test_go_tool_pprof_shows_the_line_that_made_most(lowtide, profile, tmp_path, index, at, most, mebibytes):  # noqa: F811
    out = tmp_path / "p.pb.gz"
    export(lowtide, profile, "--format", "pprof", "--at", at, "-o", out)
    shown = subprocess.run(
        ["go", "tool", "pprof", "-top", "-cum", "-unit=mb", f"-sample_index={index}", out],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cumulative = {m[2]: float(m[1]) for m in re.finditer(r"([\d.]+)MB +[\d.]+%  (\S+)$", shown, re.M)}
    assert "<module>" in cumulative
    assert cumulative[most] == mebibytes


def fields(data: bytes) -> dict[int, list[int | bytes]]:
    """A message of Protocol Buffers by field: numbers, and bytes of what has a length."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        key = varint()
        value: int | bytes = varint()
        if key & 7 == 2:
            size, value = int(value), b""
            value = data[at : at + size]
            assert len(value) == size
            at += size
        else:
            assert key & 7 == 0
        found.setdefault(key >> 3, []).append(value)
    return found


def read_pprof(path: Path) -> tuple[dict[int, list[int | bytes]], list[str]]:
    found = fields(gzip.decompress(path.read_bytes()))
    return found, [text.decode() for text in found[6]]


def test_pprof_holds_the_four_heap_sample_types_and_values_for_each(lowtide, profile, tmp_path):  # noqa: F811
    out = tmp_path / "p.pb.gz"
    export(lowtide, profile, "--format", "pprof", "--at", "peak", "-o", out)
    found, texts = read_pprof(out)
    assert texts[0] == ""
    types = [(texts[fields(one)[1][0]], texts[fields(one)[2][0]]) for one in found[1]]
    assert types == [("alloc_objects", "count"), ("alloc_space", "bytes")] + [
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ]
    sums = [sum(column) for column in zip(*(fields(one)[2] for one in found[2]))]
    assert (sums[1], sums[3]) == (4785 * MIB, 290 * MIB)
    locations = {fields(one)[1][0] for one in found[4]}
    functions = {fields(one)[1][0] for one in found[5]}
    assert all(set(fields(one)[1]) <= locations for one in found[2])
    assert all(fields(fields(one)[4][0])[1][0] in functions for one in found[4])


def test_pprof_names_the_library_of_native_frames_by_its_build_id(lowtide, profile, tmp_path):  # noqa: F811
    out = tmp_path / "p.pb.gz"
    export(lowtide, profile, "--format", "pprof", "-o", out)
    found, texts = read_pprof(out)
    program, mapping = map(fields, found[3])
    assert texts[program[5][0]] == "python app.py"  # readers take the first for it
    assert texts[mapping[5][0]] == "/usr/lib/libpython3.13.so"
    assert texts[mapping[6][0]] == "c44eeda961fe793ef28f257397de598c363789b9"
    native = [fields(one) for one in found[4] if 2 in fields(one)]
    assert [(one[2], one[3]) for one in native] == [(mapping[1], [0x1234])]


def test_speedscope_has_a_weight_for_each_stack_and_frames_that_are_there(lowtide, profile):  # noqa: F811
    found = json.loads(export(lowtide, profile, "--format", "speedscope", "--at", "peak"))
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [p["name"] for p in found["profiles"]] == [
        "peak",
        "live",
        "rss peak",
        "total",
        "gone with ended processes",
    ]
    for one in found["profiles"]:
        assert one["type"] == "sampled" and one["unit"] == "bytes"
        assert len(one["samples"]) == len(one["weights"])
        assert sum(one["weights"]) == one["endValue"] - one["startValue"]
        assert all(0 <= frame < len(found["shared"]["frames"]) for stack in one["samples"] for frame in stack)
    assert found["profiles"][0]["endValue"] == 290 * MIB


SPEEDSCOPE = Path(__file__).resolve().parents[2] / "web/node_modules/speedscope/dist/release"


@pytest.mark.skipif(not (SPEEDSCOPE / "index.html").exists(), reason="npm ci --prefix web has not installed speedscope")
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium to open speedscope in")
@pytest.mark.parametrize(
    ("form", "name", "title"),
    [
        ("speedscope", "p.json", "lowtide - speedscope"),
        ("collapsed", "p.collapsedstack.txt", "p.collapsedstack.txt - speedscope"),
    ],
)
def test_speedscope_itself_opens_the_file(lowtide, profile, tmp_path, form, name, title):  # noqa: F811
    data = export(lowtide, profile, "--format", form, "--at", "peak").encode()
    script = tmp_path / "load.js"  # as its own command line does it
    script.write_text(f'speedscope.loadFileFromBase64("{name}", "{base64.b64encode(data).decode()}")')
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    words += [f"--user-data-dir={tmp_path / 'home'}", "--virtual-time-budget=20000", "--dump-dom"]
    words.append(f"{(SPEEDSCOPE / 'index.html').as_uri()}#localProfilePath={script}")
    dom = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True).stdout
    # A file that it cannot read is told in a dialogue, and the title stays "speedscope".
    assert re.findall(r"<title>([^<]*)", dom)[0] == title
    assert form == "collapsed" or ">peak<" in dom or 'peak"' in dom


def test_what_speedscope_gets_follows_its_schema(lowtide, profile):  # noqa: F811
    path = SPEEDSCOPE / "file-format-schema.json"
    if not path.exists():
        pytest.skip("npm ci --prefix web has not installed speedscope")
    found = json.loads(export(lowtide, profile, "--format", "speedscope"))
    definitions = json.loads(path.read_text())["definitions"]
    required = definitions["FileFormat.File"]["required"]
    assert set(required) <= set(found)
    one = definitions["FileFormat.SampledProfile"]
    for shown in found["profiles"]:
        assert set(one["required"]) <= set(shown) <= set(one["properties"])
    frame = definitions["FileFormat.Frame"]
    assert all(set(frame["required"]) <= set(f) <= set(frame["properties"]) for f in found["shared"]["frames"])


def read_collapsed(text: str) -> dict[tuple[str, ...], int]:
    """Bytes by stack, as flamegraph.pl reads a line: it passes over what is none, and takes a second number for a difference."""
    found: dict[tuple[str, ...], int] = {}
    for line in text.splitlines():
        stack, weight = re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", line, re.A).groups()
        assert not re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", stack, re.A), line
        frames = tuple(stack.split(";"))
        assert all(re.fullmatch(r"\S.* \(.*\)", frame) for frame in frames), line
        found[frames] = found.get(frames, 0) + int(weight)
    return found


def test_of_very_many_stacks_the_small_ones_count_for_their_callers(lowtide, lowtide_exe, tmp_path):
    out = tmp_path / "many.tide"
    words = [out, "/srv/app.py", 2, 1 << 19, 0, 0, "-", 60_000]
    subprocess.run([lowtide_exe.parent / "profile_recording", *map(str, words)], check=True)
    sums, counts = set(), []
    for options in ([], ["--all"]):
        done = lowtide("export", out, "--format", "collapsed", "--at", "total", *options)
        assert done.status == 0
        assert ("of 60,011 stacks, those below 1/" in done.stderr) == (not options)
        weights = [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()]
        sums.add(sum(weights))
        counts.append(len(weights))
    assert len(sums) == 1  # nothing is lost
    assert counts[0] < 50_000 < counts[1]
    assert "spin (" in done.stdout
    for form in FORMATS:
        done = lowtide("export", out, "--format", form, "-o", tmp_path / form)
        assert done.status == 0
        assert bool(done.stderr) == (form in ("pprof", "speedscope", "collapsed"))
        assert (tmp_path / form).stat().st_size < 24 << 20
    found = fields(gzip.decompress((tmp_path / "pprof").read_bytes()))
    locations = {fields(one)[1][0] for one in found[4]}
    assert all(set(fields(one)[1]) <= locations for one in found[2])


@pytest.mark.parametrize(
    ("at", "mebibytes"), [("end", 73), ("peak", 290), ("rss-peak", 280), ("total", 4785), ("gone", 16)]
)
def test_flamegraph_reads_each_collapsed_stack_and_all_of_its_bytes(lowtide, profile, at, mebibytes):  # noqa: F811
    stacks = read_collapsed(export(lowtide, profile, "--format", "collapsed", "--at", at))
    assert sum(stacks.values()) == mebibytes * MIB
    assert {stack[0].split()[0] for stack in stacks} == {"<module>"}


def test_pandas_reads_the_csv(lowtide, profile):  # noqa: F811
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(export(lowtide, profile, "--format", "csv")))
    assert frame.live_bytes.sum() == 73 * MIB
    assert frame.gone_bytes.sum() == 16 * MIB
    assert (frame.dtypes[3:] == "int64").all()


def test_collapsed_stacks_are_names_with_semicolons_and_a_number(lowtide, profile):  # noqa: F811
    weights: dict[str, int] = {}
    for line in export(lowtide, profile, "--format", "collapsed", "--at", "total").splitlines():
        stack, weight = line.rsplit(" ", 1)
        names = [frame.split(" ")[0] for frame in stack.split(";")]
        assert names[0] == "<module>"
        weights[names[1]] = weights.get(names[1], 0) + int(weight)
    assert weights == {"load": 88 * MIB, "parse": 600 * MIB, "spin": 4096 * MIB, "namedtuple": MIB}


def test_csv_has_a_row_for_each_site(lowtide, profile):  # noqa: F811
    rows = list(csv.DictReader(io.StringIO(export(lowtide, profile, "--format", "csv", "--at", "peak"))))
    assert [row["function"] for row in rows][:3] == ["parse", "load", "spin"]
    assert (int(rows[1]["live_bytes"]), int(rows[1]["gone_bytes"])) == (72 * MIB, 16 * MIB)
    assert int(rows[1]["live_error_bytes"]) == round(1.96 * (5**2 + 3 * 0.5**2) ** 0.5 * MIB)


def test_perfetto_gets_the_memory_of_each_process_and_the_events(lowtide, profile):  # noqa: F811
    events = json.loads(export(lowtide, profile, "--format", "perfetto"))["traceEvents"]
    counters = [e for e in events if e["ph"] == "C"]
    assert {e["pid"] for e in counters} == {4711, 4712}
    assert max(e["args"]["rss_bytes"] for e in counters) == 293 * MIB
    assert [e["dur"] for e in events if e["ph"] == "X"] == [12000]
    assert [e["name"] for e in events if e["ph"] == "i"] == ["loaded \x1b[31m"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_without_a_profile_is_refused_in_one_line(lowtide, name):
    done = lowtide("export", GOLDEN / "v1.0-small.tide", "--format", name)
    assert done.status == 1
    assert done.stderr.count("\n") == 1 and "lowtide run" in done.stderr


def test_an_unknown_format_is_wrong_usage(lowtide, profile):  # noqa: F811
    assert lowtide("export", profile, "--format", "xml").status == 2
    assert lowtide("export", profile).status == 2
