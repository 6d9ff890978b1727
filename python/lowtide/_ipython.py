"""``%load_ext lowtide`` in IPython: the magics ``%lowtide`` for a line and ``%%lowtide`` for a cell."""

from __future__ import annotations

import gc
import linecache
from collections import Counter
from typing import Any

from lowtide import tracemalloc
from lowtide._origin import is_library
from lowtide._pool_errors import size

LINES = 10
FRAMES = 40  # of a stack: as deep as libraries call below a cell
Line = tuple[str, int]


def _own(stack: tracemalloc.Traceback) -> Line | None:
    """The innermost line of the cell, or of a file that is no library's; None: what runs the cell made it."""
    for frame in reversed(stack):
        if frame.filename == __file__:
            return None
        if not is_library(frame.filename):
            return frame.filename, frame.lineno
    return None


def _grown(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot) -> list[tuple[Line, int, int]]:
    """Lines with the bytes and blocks that they have more, most first."""
    sizes: Counter[Line] = Counter()
    counts: Counter[Line] = Counter()
    for d in after.compare_to(before, "traceback"):
        line = _own(d.traceback)
        if line is not None:
            sizes[line] += d.size_diff
            counts[line] += d.count_diff
    return [(line, size, counts[line]) for line, size in sizes.most_common() if size > 0]


def _tell(kept: int, peak: int, lines: list[tuple[Line, int, int]]) -> None:
    print(f"at most {size(peak)} at once, {size(kept)} kept")
    for (file, number), grown, blocks in lines:
        source = linecache.getline(file, number).strip()
        name = file if len(file) < 60 else f"…{file[-58:]}"
        print(f"{size(grown):>12} in {blocks} blocks  {name}:{number}  {source}")


def load_ipython_extension(shell: Any) -> None:
    """IPython calls this for ``%load_ext lowtide``."""

    def lowtide(line: str, cell: str | None = None) -> None:
        """Run a line or a cell, and tell how much memory it needed at once, what it kept, and which lines made that.

        What counts is what lowtide.tracemalloc traces: Python's blocks, exactly, and NumPy's arrays.
        """
        for_this = not tracemalloc.is_tracing()
        gc.collect()
        if for_this:
            tracemalloc.start(FRAMES)
        before = tracemalloc.take_snapshot()
        tracemalloc.reset_peak()
        begun = tracemalloc.get_traced_memory()[0]
        try:
            shell.run_cell(line if cell is None else cell, store_history=False)
            peak = tracemalloc.get_traced_memory()[1]
            gc.collect()
            ended = tracemalloc.get_traced_memory()[0]
            grown = _grown(before, tracemalloc.take_snapshot())
        finally:
            if for_this:
                tracemalloc.stop()
        least = sum(bytes_ for _, bytes_, _ in grown) / 100
        _tell(ended - begun, peak - begun, [line for line in grown if line[1] >= least][:LINES])

    shell.register_magic_function(lowtide, magic_kind="line_cell", magic_name="lowtide")
