"""Every block that an object owns, apart from its own, leads from the line that had it made to the object."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import TESTS, Lowtide, Python, Spawn
from test_attach import Attach, attach, interrupt

__all__ = ["attach"]

# Shows that it is watched until it is told to go on; then makes all kinds, each in a function of its own.
MAKE = r"""
import json, select, sys
names = sorted(KINDS)
kept = {}
for i, name in enumerate(names):
    exec(f"def made_{i}(make): kept[{name!r}] = make()")
    KINDS[name]()  # what is made once for all
def grow():
    kept["grow"] = [{"i": i} for i in range(5000)]
print(json.dumps(names), "\nready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
sys.stdin.readline()
for i, name in enumerate(names):
    globals()[f"made_{i}"](KINDS[name])
print("made", flush=True)
sys.stdin.read()
"""
# Bytes that were made for a kind, and of them those that are no object's.
QUERY = """
with recursive up(stack, at) as (
    select distinct stack, stack from samples union
    select stack, parent from up join stacks on id = at where parent is not null)
select function, sum(weight), sum(case when object is null then weight else 0 end)
from samples join up using (stack) join stacks on id = at where function like 'made_%' group by 1
"""


def test_blocks_of_every_kind_of_object_lead_to_the_object(
    lowtide: Lowtide, spawn: Spawn, attach: Attach, target_python: Python, tmp_path: Path
) -> None:
    target = spawn(target_python, (TESTS / "zoo/heap_kinds.py").read_text() + MAKE)
    names = json.loads(target.head[0])
    process = attach(target, tmp_path / "a.tide", "--interval", "1K")
    target.say("go")
    target.wait_for("made")
    interrupt(process)
    assert target.finish()[0] == 0
    rows = json.loads(lowtide("sql", tmp_path / "a.tide", QUERY, "--json").stdout)["rows"]
    lost = {names[int(function[5:])]: round(lost / made, 3) for function, made, lost in rows}
    assert len(lost) == len(names)
    assert not {name: share for name, share in lost.items() if share > 0.2}
