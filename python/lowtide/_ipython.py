"""``%load_ext lowtide`` in IPython: the magics ``%lowtide`` for a line and ``%%lowtide`` for a cell."""

from __future__ import annotations

import gc
import linecache
from typing import Any

from lowtide import tracemalloc
from lowtide._pool_errors import size

LINES = 10


def _tell(kept: int, peak: int, lines: list[tracemalloc.Statistic]) -> None:
    print(f"at most {size(peak)} at once, {size(kept)} kept")
    for line in lines:
        frame = line.traceback[0]
        source = linecache.getline(frame.filename, frame.lineno).strip()
        name = frame.filename if len(frame.filename) < 60 else f"…{frame.filename[-58:]}"
        print(f"{size(line.size):>12} in {line.count} blocks  {name}:{frame.lineno}  {source}")


def load_ipython_extension(shell: Any) -> None:
    """IPython calls this for ``%load_ext lowtide``."""

    def lowtide(line: str, cell: str | None = None) -> None:
        """Run a line or a cell, and tell how much memory it needed at once, what it kept, and which lines made that.

        What counts is what lowtide.tracemalloc traces: Python's blocks, exactly, and NumPy's arrays.
        """
        for_this = not tracemalloc.is_tracing()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        tracemalloc.reset_peak()
        begun = tracemalloc.get_traced_memory()[0]
        try:
            shell.run_cell(line if cell is None else cell, store_history=False)
            peak = tracemalloc.get_traced_memory()[1]
            gc.collect()
            ended = tracemalloc.get_traced_memory()[0]
            grown = tracemalloc.take_snapshot().compare_to(before, "lineno")
        finally:
            if for_this:
                tracemalloc.stop()
        lines = [tracemalloc.Statistic(d.traceback, d.size_diff, d.count_diff) for d in grown if d.size_diff > 0]
        least = sum(line.size for line in lines) / 100  # what the cell's running takes, whatever is in it
        lines = sorted((line for line in lines if line.size >= least), key=lambda line: -line.size)
        _tell(ended - begun, peak - begun, lines[:LINES])

    shell.register_magic_function(lowtide, magic_kind="line_cell", magic_name="lowtide")
