"""A report over a log of any size, in a bounded memory: each part of lowtide that keeps a program low, typed.

    python examples/low_report.py requests.jsonl report.csv --memory 256M

Every line of the log is a request, such as {"user": "ada", "path": "/cart", "ms": 12.5}. Requests are joined with what is
known of their user, slow ones are written to the report, and a summary follows. Passes mypy --strict.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import lowtide


class Request(TypedDict):
    user: str
    path: str
    ms: float


class Row(TypedDict):
    user: str
    country: str
    path: str
    ms: float


countries: lowtide.Cache[str, str] = lowtide.Cache(max_bytes="8MiB", ttl=3600)


@lowtide.cache(max_bytes="4MiB")
def section(path: str) -> str:
    """The first part of a path."""
    return path.split("/")[1]


def look_up(user: str) -> str:
    """Stands for a question to a database."""
    return ("NL", "FR", "PL")[sum(user.encode()) % 3]


def is_slow(request: Request) -> bool:
    return request["ms"] > 500


def row_of(request: Request) -> Row:
    user = request["user"]
    country = countries.get_or_compute(user, lambda: look_up(user))
    return {"user": user, "country": country, "path": request["path"], "ms": request["ms"]}


def users_of(request: Request) -> Iterator[str]:
    yield request["user"]


def count(so_far: Counter[str], request: Request) -> Counter[str]:
    so_far[section(request["path"])] += 1
    return so_far


def longest_path(requests: list[Request]) -> int:
    return max(len(request["path"]) for request in requests)


@lowtide.isolate(memory="1GiB", timeout=60)
def median_ms(log: Path) -> float:
    """Needs all figures at once: in a child, which takes them with it when it ends."""
    found = sorted(json.loads(line)["ms"] for line in log.open())
    return float(found[len(found) // 2]) if found else 0.0


def report(log: Path, out: Path, memory: str, workers: int) -> None:
    requests: lowtide.Stream[Request] = lowtide.stream(log, memory, workers=workers, errors="skip")
    rows: lowtide.Stream[Row] = requests.filter(is_slow).map(row_of)
    summary: lowtide.Summary = rows.write(out)
    print(f"{summary.records_out} slow requests of {summary.records_in}, peak {summary.peak_bytes >> 20} MiB")

    sections: Counter[str] = lowtide.stream(log, memory).reduce(count, Counter())
    users: set[str] = set(requests.map(users_of))
    print(f"{len(users)} users; {', '.join(f'{name}: {n}' for name, n in sections.most_common(3))}")
    print(f"median {median_ms(log):.1f} ms; {section.cache_info().hits} sections were known")
    with lowtide.Pool(max_workers=1, memory="512MiB") as pool:
        longest: list[int] = list(pool.map(longest_path, requests.batch(10_000)))
    print(f"longest path: {max(longest, default=0)}")


def make_log(path: Path, lines: int) -> None:
    made = random.Random(7)
    with path.open("w") as file:
        for _ in range(lines):
            request: Request = {
                "user": made.choice(("ada", "grace", "edsger", "barbara")),
                "path": f"/{made.choice(('cart', 'help', 'item'))}/{made.randrange(1000)}",
                "ms": made.randrange(10_000) / 10,
            }
            file.write(json.dumps(request) + "\n")


def on_pressure(pressure: lowtide.Pressure) -> None:
    print(f"{pressure.source}: {pressure.used_bytes >> 20} of {pressure.limit_bytes >> 20} MiB", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--memory", default="256M")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--make", type=int, metavar="LINES", help="write a log of so many lines first")
    words = parser.parse_args()
    if words.make:
        make_log(words.log, words.make)
    with lowtide.limit("80%", on_pressure=on_pressure) as limit, lowtide.scope() as scope:
        report(words.log, words.out, words.memory, words.workers)
    freed: lowtide.Freed = lowtide.free()
    print(
        f"{scope.bytes >> 10} KiB left behind in {len(scope.survivors)} types, {freed.returned_bytes >> 10} KiB given back"
    )
    print(f"{limit.stats.pressures} times short of memory")


if __name__ == "__main__":
    main()
