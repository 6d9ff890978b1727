"""How far sampled figures are off, beside exact ones of the same program: `python bench/accuracy.py [PYTHON]`.

    --programs records,json     some of bench/programs/allocating.py    --seeds 8    sampled runs of each
    --interval 512K             between samples; sites over twice that count

Each program runs once exactly and several times sampled, each time by other chance. For every site (file, line, function) over 1 MiB:
is the sampled figure within the error that is told with it? A site that no sample has seen counts by the error that docs/profile.md tells
for that. The goal is 95 % on every program; in brackets how unlikely a lower count is by chance where 95 % are.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from programs.allocating import OWN, names, write_script

LOWTIDE = Path(os.environ.get("LOWTIDE_EXE", Path(__file__).resolve().parent.parent / "build/bin/lowtide"))
FIGURES = {"at the end": ("live_bytes", "live_error_bytes"), "at the peak": ("peak_bytes", "peak_error_bytes")}
Sites = dict[tuple[str, str, str], dict[str, int]]


@dataclass
class Count:
    sites: int = 0
    within: int = 0
    told: int = 0
    true: int = 0


def profile(python: str, script: Path, *options: str) -> Sites | None:
    recording, table = script.with_suffix(".tide"), script.with_suffix(".csv")
    run = [LOWTIDE, "run", "--no-report", "--no-peak-snapshot", "-o", recording, *options, "--", python, script]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(run, cwd=script.parent, capture_output=True, text=True, env=environment)
    if "seconds " not in done.stdout:
        return None
    subprocess.run([LOWTIDE, "export", recording, "--format", "csv", "-o", table], check=True, capture_output=True)
    with open(table, newline="") as file:
        return {
            (line["file"], line["line"], line["function"]): {
                key: int(value) for key, value in line.items() if key.endswith("_bytes")
            }
            for line in csv.DictReader(file)
        }


def compare(exact: Sites, sampled: Sites, interval: int, counts: dict[str, Count]) -> None:
    unseen = 1.96 * 3**0.5 * interval
    for when, (figure, error) in FIGURES.items():
        count = counts[when]
        for site, truth in exact.items():
            if truth[figure] < 2 * interval:
                continue
            told = sampled.get(site, {})
            count.sites += 1
            count.within += abs(told.get(figure, 0) - truth[figure]) <= told.get(error, unseen)
            count.told += told.get(figure, 0)
            count.true += truth[figure]


def by_chance(count: Count) -> float:
    """So few within their error, or fewer, where each is so with 95 %."""
    n = count.sites

    def log_ways(k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    return sum(math.exp(log_ways(k) + k * math.log(0.95) + (n - k) * math.log(0.05)) for k in range(count.within + 1))


def cells(count: Count) -> str:
    if not count.sites:
        return f"{'no site over 1 MiB':>43}"
    share, bias = count.within / count.sites, count.told / count.true - 1
    doubt = f"({by_chance(count):.2g})" if share < 0.95 else ""
    return f"{count.sites:7} sites {100 * share:6.1f} % {doubt:10}{100 * bias:+7.1f} %"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("python", nargs="?", default=sys.executable)
    options.add_argument("--programs", default="")
    options.add_argument("--seeds", type=int, default=8)
    options.add_argument("--interval", default="512K")
    chosen = options.parse_args()
    interval = int(chosen.interval.rstrip("K")) << 10
    whole = {when: Count() for when in FIGURES}
    heading = "within error         all bytes off"
    print(f"{'program':20}" + "".join(f"{f'{when}: {heading}':>48}" for when in FIGURES))
    with tempfile.TemporaryDirectory() as name:
        for program in chosen.programs.split(",") if chosen.programs else names():
            script = write_script(program, Path(name), times=2 if program in OWN else 5)
            exact = profile(chosen.python, script, "--exact")
            counts = {when: Count() for when in FIGURES}
            for _ in range(chosen.seeds if exact else 0):
                sampled = profile(chosen.python, script, f"--interval={chosen.interval}")
                compare(exact or {}, sampled or {}, interval, counts)
            for when, count in counts.items():
                whole[when].sites += count.sites
                whole[when].within += count.within
                whole[when].told += count.told
                whole[when].true += count.true
            told = "".join(f"{cells(count):>48}" for count in counts.values()) if exact else "  not to be run"
            print(f"{program:20}{told}", flush=True)
    print(f"{'all':20}" + "".join(f"{cells(count):>48}" for count in whole.values()))


if __name__ == "__main__":
    main()
