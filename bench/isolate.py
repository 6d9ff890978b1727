"""Benchmarks of isolation beside ProcessPoolExecutor (and loky, where it is installed), as ratios within one run.

    python bench/isolate.py [--rounds 5] [--mib 256]

Run with a Python that has lowtide and NumPy installed. Prints a Markdown table. Times are medians of rounds in which all
take turns; each has one worker, which is warm.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import lowtide
import numpy as np


def add(a: int, b: int) -> int:
    return a + b


def ones(mib: int) -> Any:
    return np.ones(mib << 17)


def text(mib: int) -> bytes:
    return b"x" * (mib << 20)


def total(array: Any) -> float:
    return float(array[0] + array[-1])


def forked_add() -> None:
    """The least that a call in a fresh child can cost: a fork of this process."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_methods(rounds: int) -> None:
    """What an isolated call takes, child and all, however its child is started; they take turns. No thread may run."""
    calls = {method: lowtide.isolate(add, start_method=method) for method in ("forkserver", "fork", "spawn")}
    acts: dict[str, Callable[[], object]] = {
        **{method: functools.partial(call, 1, 2) for method, call in calls.items()},
        "a bare fork of this process": forked_add,
    }
    for act in acts.values():
        act()
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            taken[name].append(seconds(act, 2 if name == "spawn" else 10))
    print("\n| an isolated call by start method | ms |\n|---|---|")
    for name, times in taken.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.1f} |", flush=True)


def seconds(act: Callable[[], object], times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256)
    args = parser.parse_args()
    pools: dict[str, Executor] = {"lowtide": lowtide.Pool(1, max_growth=None)}
    with contextlib.suppress(ImportError):
        from loky import ProcessPoolExecutor as Loky

        pools["loky"] = Loky(1)
    pools["ProcessPoolExecutor"] = ProcessPoolExecutor(1)
    given = np.ones(args.mib << 17)
    cases: dict[str, Callable[[Executor], float]] = {
        "a small call": lambda pool: seconds(lambda: pool.submit(add, 1, 2).result(), 300),
        "a small call of 2000 in flight": lambda pool: seconds(lambda: list(pool.map(add, *[range(2000)] * 2))) / 2000,
        f"{args.mib} MiB array back": lambda pool: seconds(lambda: pool.submit(ones, args.mib).result()),
        f"{args.mib} MiB of bytes back": lambda pool: seconds(lambda: pool.submit(text, args.mib).result()),
        f"{args.mib} MiB array there": lambda pool: seconds(lambda: pool.submit(total, given).result()),
    }
    for pool in pools.values():
        pool.submit(ones, 1).result()
    names = list(pools)
    print(f"| what | {' | '.join(names)} | lowtide to ProcessPoolExecutor |\n|---|{'---|' * (len(names) + 1)}")
    for what, measure in cases.items():
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, pool in pools.items():
                taken[name].append(measure(pool))
        medians = {name: statistics.median(times) for name, times in taken.items()}
        ratio = medians["lowtide"] / medians["ProcessPoolExecutor"]
        cells = " | ".join(f"{medians[name] * 1e3:.3g} ms" for name in names)
        print(f"| {what} | {cells} | {ratio:.2f} ({1 / ratio:.1f}× faster) |", flush=True)
    for pool in pools.values():
        pool.shutdown()
    start_methods(args.rounds)


if __name__ == "__main__":
    main()
