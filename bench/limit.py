"""A cache-heavy server below a soft limit: does it stay there, and at what cost? Without the limit it is killed.

    python bench/limit.py [--soak SECONDS]

Cost: servers side by side, each a process that does a slice of requests when it is told to, in turn: one without a limit, one with
a limit that it never reaches, one at its limit. Ratios are of processor time (all threads of a process), so of nothing else that runs.
Soak: the server below a wall that kills (a memory cgroup where one may be made, else RLIMIT_DATA), with the limit and without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any

MIB = 1 << 20
SLICE, SLICES, COPIES = 1000, 100, 3
MODES = ("plain", "far", "limited")
SERVER = """
import json, random, resource, sys, time
import lowtide
from lowtide import _core
mode, wall, new = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
MIB, PICTURE = 1 << 20, 40000
begin = _core.rss_bytes()
if wall:
    data = int(open('/proc/self/statm').read().split()[5]) * 4096
    resource.setrlimit(resource.RLIMIT_DATA, (data + wall, -1))
limit = begin + (200 * MIB if mode != 'far' else 1 << 33)
held = lowtide.limit(limit) if mode != 'plain' else None
# Where no limit is to be reached the cache bounds itself, so that all servers hold as much.
cache = lowtide.Cache(max_bytes='64GiB' if mode in ('limited', 'open') else '175MiB')
if mode == 'open': held.close()
roll = random.Random(1)
done = 0
def handle(key):
    page = cache.get(key)
    if page is None:
        page = cache[key] = json.dumps([key + i for i in range(300)]), bytes([key % 256]) * PICTURE
    return json.loads(page[0])
def traffic(n):
    # A working set that moves on: most requests hit what is recent, one in `new` is new.
    global done
    for _ in range(n):
        handle(done // new if done % new == 0 else max(0, done // new - roll.randrange(2000)))
        done += 1
for line in sys.stdin:
    began, began_wall = time.process_time(), time.perf_counter()
    try:
        traffic(int(line))
    except MemoryError:
        print(json.dumps({'requests': done, 'memory_error': True}), flush=True); sys.exit(3)
    print(json.dumps({'requests': done, 'cpu_s': time.process_time() - began,
                      'wall_s': time.perf_counter() - began_wall,
                      'rss_of_limit': _core.rss_bytes() / limit,
                      'stats': held.stats._asdict() if held else None}), flush=True)
"""


class Server:
    def __init__(self, mode: str, new: int, wall_bytes: int = 0, group: str | None = None) -> None:
        def enter() -> None:
            if group:
                with open(f"{group}/cgroup.procs", "w") as f:
                    f.write(str(os.getpid()))

        command = [sys.executable, "-c", SERVER, mode, str(wall_bytes), str(new)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=enter
        )

    def serve(self, requests: int) -> dict[str, Any] | None:
        """None: it is dead."""
        to, out = self._pipes()
        try:
            to.write(f"{requests}\n")
            to.flush()
        except BrokenPipeError:
            return None
        line = out.readline()
        return dict(json.loads(line)) if line else None

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin and self.process.stdout
        return self.process.stdin, self.process.stdout


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[str | None]:
    """A memory cgroup of our own (version 1 or 2), or None where none may be made."""
    for mount, name in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        place = f"{mount}/lowtide-bench-{os.getpid()}"
        try:
            os.mkdir(place)
        except OSError:
            continue
        try:
            if os.path.exists(f"{place}/{name}"):
                with open(f"{place}/{name}", "w") as f:
                    f.write(str(limit_bytes))
                yield place
                return
        finally:
            os.rmdir(place)
    yield None


def cost(new: int) -> None:
    # Several of each: equal ones differ by how their memory lies, some by a fifth.
    servers = {(mode, copy): Server(mode, new) for mode in MODES for copy in range(COPIES)}
    for server in servers.values():
        server.serve(6 * new * SLICE)  # full, and at the limit where there is one
    answers: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in servers}
    for _ in range(SLICES):
        for key in random.sample(list(servers), len(servers)):
            answer = servers[key].serve(SLICE)
            assert answer, f"the server {key} died"
            answers[key].append(answer)
    for server in servers.values():
        server.end()
    print(f"a request, {COPIES} servers of each kind, {SLICES} slices of {SLICE} requests in turn, one in {new} new")
    plain: dict[str, float] = {}
    for mode in MODES:
        us = {
            # In sum for processor time, which counts all that a limit does; for the wall's the median slice, since others run too.
            "cpu_s": statistics.median(sum(a["cpu_s"] for a in answers[mode, i]) / SLICES for i in range(COPIES)),
            "wall_s": statistics.median(
                statistics.median(a["wall_s"] for a in answers[mode, i]) for i in range(COPIES)
            ),
        }
        plain = plain or us
        last = [answers[mode, i][-1] for i in range(COPIES)]
        print(
            f"  {mode:8} {us['cpu_s'] / SLICE * 1e6:6.1f} us of processor time, {us['cpu_s'] / plain['cpu_s']:.3f} of plain; "
            f"{us['wall_s'] / plain['wall_s']:.3f} of its time by the wall; "
            f"RSS {max(a['rss_of_limit'] for a in last):.3f} of the limit, "
            f"{max((a['stats'] or {}).get('pressures', 0) for a in last)} pressures"
        )


def soak(seconds: int, rate: int, new: int) -> bool:
    """`rate`: how many requests make a second of traffic."""
    held = True
    for mode in ("open", "limited"):
        with memory_group(400 * MIB) as group:
            wall = "a memory cgroup" if group else "RLIMIT_DATA (no cgroup may be made here)"
            server = Server(mode, new, 0 if group else 400 * MIB, group)
            last, top = None, 0.0
            for _ in range(seconds):
                answer = server.serve(rate)
                if not answer or "memory_error" in answer:
                    last = answer or last
                    break
                last, top = answer, max(top, answer["rss_of_limit"])
            status = server.end()
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
            served = last["requests"] if last else 0
            stats = last["stats"] if last and mode == "limited" and "stats" in last else None
            print(
                f"{seconds} s of traffic at {rate}/s below {wall} of 400 MiB, "
                f"{'with' if mode == 'limited' else 'without'} a limit: {how} after {served} requests; "
                f"RSS at most {top:.3f} of the limit" + (f"; {json.dumps(stats)}" if stats else ""),
                flush=True,
            )
            held &= (status == 0 and top < 1) == (mode == "limited")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=60, help="seconds of simulated traffic (an hour: 3600)")
    parser.add_argument("--rate", type=int, default=5000, help="requests that make a second of traffic")
    parser.add_argument("--new", type=int, default=20, help="one request in so many is for a page that nobody had")
    options = parser.parse_args()
    cost(options.new)
    if not soak(options.soak, options.rate, options.new):
        sys.exit("the limit did not hold, or the wall did not kill")


if __name__ == "__main__":
    main()
