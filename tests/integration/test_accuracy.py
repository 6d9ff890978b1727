"""Sampled figures lie within the error that is told with them: the same program exactly and sampled, line by line."""

from __future__ import annotations

import csv
from pathlib import Path

from conftest import Lowtide, Python

LINES = 1500
INTERVAL = 8 << 10
# Blocks far below the interval, about it and above; each line keeps two to four intervals, where samples are few.
PROGRAM = "kept = []\n" + "".join(
    f"kept.append([bytes({size}) for i in range({max(1, INTERVAL * (2 + n % 9 / 4) // (size + 41) + 1):.0f})])\n"
    for n in range(LINES)
    for size in [(16, 60, 300, 1000, 5000, 12_000, 30_000)[n % 7]]
)


def figures(lowtide: Lowtide, python: Python, folder: Path, *options: str) -> dict[tuple[str, ...], dict[str, int]]:
    (folder / "app.py").write_text(PROGRAM)
    run = lowtide(
        "run", "--no-report", "--no-peak-snapshot", "-o", folder / "t.tide", *options,
        "--python", python.executable, folder / "app.py",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    assert lowtide("export", folder / "t.tide", "--format", "csv", "-o", folder / "t.csv").status == 0
    with open(folder / "t.csv", newline="") as file:
        return {
            (row["line"], row["function"]): {key: int(n) for key, n in row.items() if key.endswith("_bytes")}
            for row in csv.DictReader(file)
            if row["file"].endswith("app.py")
        }


def test_19_of_20_lines_lie_within_their_error(lowtide: Lowtide, local_python: Python, tmp_path: Path) -> None:
    exact = figures(lowtide, local_python, tmp_path, "--exact")
    sampled = figures(lowtide, local_python, tmp_path, f"--interval={INTERVAL}")
    for figure, error in ("live_bytes", "live_error_bytes"), ("peak_bytes", "peak_error_bytes"):
        counted = within = total = estimated = 0
        for line, truth in exact.items():
            if truth[figure] < 2 * INTERVAL:
                continue
            told = sampled.get(line, {})
            off = abs(told.get(figure, 0) - truth[figure])
            counted += 1
            # A line that no sample saw is not told: of it is known what is known of nothing seen.
            within += off <= told.get(error, 1.96 * 3**0.5 * INTERVAL)
            total, estimated = total + truth[figure], estimated + told.get(figure, 0)
        assert counted >= LINES * 0.99
        # 95 % less five standard deviations: by chance one run in three million falls below that.
        assert within / counted > 0.95 - 5 * (0.95 * 0.05 / counted) ** 0.5, (within, counted)
        assert abs(estimated / total - 1) < 0.075  # six standard deviations, each of 0.0118
