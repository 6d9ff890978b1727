"""A cache-heavy server below a soft limit: does it stay there, and at what cost? Beside it, the same without.

Simulated traffic for --seconds a run (an hour in the goal; 20 s here). RLIMIT_DATA stands for the wall that kills.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

SERVER = """
import json, random, resource, sys, time
import lowtide
from lowtide import _core
mode, seconds, rate = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
MIB, PICTURE = 1 << 20, 40000
limit = _core.rss_bytes() + 200 * MIB
if mode != 'roomy':
    data = int(open('/proc/self/statm').read().split()[5]) * 4096
    resource.setrlimit(resource.RLIMIT_DATA, (data + 400 * MIB, -1))
if mode == 'limited':
    l = lowtide.limit(limit)
cache = lowtide.Cache(max_bytes='64GiB')
roll = random.Random(1)
def handle(key):
    page = cache.get(key)
    if page is None:
        page = cache[key] = json.dumps([key + i for i in range(300)]), bytes([key % 256]) * PICTURE
    return json.loads(page[0])
done = top = 0
# A working set that moves on: most requests hit what is recent, one in five is new.
busy = 0.0
begin = time.perf_counter()
try:
    while done < rate * seconds:
        handle(done // 5 if done % 5 == 0 else max(0, done // 5 - roll.randrange(2000)))
        done += 1
        if done % 500 == 0:
            top = max(top, _core.rss_bytes())
except MemoryError:
    print(json.dumps({'died': done})); sys.exit()
took = time.perf_counter() - begin
print(json.dumps({'requests_per_s': done / took, 'peak_of_limit': top / limit,
                  'stats': l.stats._asdict() if mode == 'limited' else None}))
"""


def serve(mode: str, seconds: float, rate: int) -> dict[str, object]:
    command = [sys.executable, "-c", SERVER, mode, str(seconds), str(rate)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=7000, help="requests that make a second of traffic")
    options = parser.parse_args()
    for mode in ("roomy", "limited", "roomy", "limited", "walled"):
        print(mode, json.dumps(serve(mode, options.seconds, options.rate)), flush=True)


if __name__ == "__main__":
    main()
