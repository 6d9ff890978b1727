"""The recording format: golden files, and a second decoder held against the reader in C.

Golden files of a version that was released stay as they are; tools/make_golden.c made them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tide_decoder

GOLDEN = Path(__file__).resolve().parent / "golden"
REPOSITORY = GOLDEN.parent.parent
PRINTER = Path(os.environ.get("LOWTIDE_REC_PRINT", REPOSITORY / "build/bin/rec_print"))
EXPECTED: dict[str, dict[str, str]] = json.loads((GOLDEN / "expected.json").read_text())
RECORDINGS = sorted(path.name for path in GOLDEN.glob("*.tide"))
WHOLE = [name for name in RECORDINGS if name not in EXPECTED]


def read_in_c(path: Path) -> list[dict[str, Any]]:
    """Run beside the file, so that messages name it alone."""
    run = subprocess.run([PRINTER, path.name], cwd=path.parent, capture_output=True, text=True, encoding="utf-8")
    assert run.stderr == ""
    lines = [json.loads(line) for line in run.stdout.split("\n") if line]
    assert run.returncode == (1 if "error" in lines[-1] else 0)
    return lines


def read_in_python(path: Path) -> list[dict[str, Any]]:
    return list(tide_decoder.decode(path.read_bytes()))


def assert_same(in_c: list[dict[str, Any]], in_python: list[dict[str, Any]]) -> None:
    in_c[0]["cut"] = in_c[0]["cut"] is not None
    for c, python in zip(in_c, in_python):
        assert c == python
    assert len(in_c) == len(in_python)


def test_golden_files_are_there() -> None:
    assert len(WHOLE) >= 3
    assert set(EXPECTED) < set(RECORDINGS)


@pytest.mark.parametrize("name", WHOLE)
def test_both_decoders_read_the_same_object_by_object(name: str) -> None:
    in_c = read_in_c(GOLDEN / name)
    assert in_c[0]["cut"] is None
    assert_same(in_c, read_in_python(GOLDEN / name))


def test_a_golden_file_reads_as_when_it_was_made() -> None:
    lines = (GOLDEN / "v1.0-small.jsonl").read_text(encoding="utf-8").splitlines()
    assert read_in_c(GOLDEN / "v1.0-small.tide") == [json.loads(line) for line in lines]


def test_the_worked_example_of_the_document_is_the_golden_file() -> None:
    """Each line of the example begins with its bytes in hex, two spaces or more before the words."""
    section = (REPOSITORY / "docs/format.md").read_text(encoding="utf-8").split("## A worked")[1]
    example = section.split("```")[1]
    found = [re.match(r"\s*((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})(?=\s|$)", s) for s in example.splitlines()]
    data = bytes.fromhex("".join(match[1] for match in found if match))
    assert data == (GOLDEN / "v1.0-worked.tide").read_bytes()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_broken_input_gives_this_very_line(name: str) -> None:
    lines = read_in_c(GOLDEN / name)
    said = {"error": lines[-1]["error"]} if "error" in lines[-1] else {"cut": lines[0]["cut"]}
    assert said == EXPECTED[name]


# The second decoder refuses an END that counts otherwise; the reader takes what stands before it.
@pytest.mark.parametrize("name", [n for n in EXPECTED if "cut" in EXPECTED[n] and n != "broken-end.tide"])
def test_both_decoders_read_a_cut_recording_up_to_the_same_object(name: str) -> None:
    assert_same(read_in_c(GOLDEN / name), read_in_python(GOLDEN / name))


@pytest.mark.parametrize("at", range(600, 17000, 1361))
def test_both_decoders_agree_wherever_the_chain_is_cut(tmp_path: Path, at: int) -> None:
    cut = tmp_path / "cut.tide"
    cut.write_bytes((GOLDEN / "v1.0-chain.tide").read_bytes()[:at])
    in_c = read_in_c(cut)
    if "error" in in_c[0]:
        assert not [line for line in read_in_python(cut) if "id" in line]
    else:
        assert_same(in_c, read_in_python(cut))


# Text beyond ASCII and cut, bytes, numbers of all sizes, an object that owns a buffer, a cycle.
PROGRAM = """
class Node: pass
node = Node(); node.self = node
things = ["größe \\u2028 \\U0001f30a" * 40, "\\ud800", b"\\0\\xff" * 300, 1 << 200, -(1 << 63), 0.1, True, array("d", range(9))]
held = {i: (str(i), {i}) for i in range(300)}
"""


def test_both_decoders_read_a_living_process_the_same(
    spawn: Any, lowtide: Any, tmp_path: Path, local_python: Any
) -> None:
    target = spawn(local_python, "from array import array\n" + PROGRAM)
    path = tmp_path / "living.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    in_c = read_in_c(path)
    assert in_c[0]["objects"] > 5000
    assert in_c[0]["cut"] is None
    assert_same(in_c, read_in_python(path))
