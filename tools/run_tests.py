"""Runs the unit tests in C, plain and under sanitizers, and then pytest; the last line sums them up.

Counts test functions, not programs. Exits with 1 on any failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


@dataclass(frozen=True)
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def count_cmocka(text: str, passed: bool) -> Count:
    """Of one test program, by the lines that cmocka ends a function with."""
    ends = re.findall(r"\[\s*(OK|FAILED|ERROR|SKIPPED)\s*\] \w+$", text, re.MULTILINE)
    bad = {m for m in re.findall(r"\[\s*(?:FAILED|ERROR)\s*\] (\w+)$", text, re.MULTILINE)}
    count = Count(ends.count("OK"), len(bad), ends.count("SKIPPED"))
    if passed:
        return count if ends else Count(passed=1)  # no cmocka: a program is one test
    return count if count.failed else count + Count(failed=1)  # it crashed, or ran out of time


def fixed_addresses() -> list[str]:
    """ThreadSanitizer of clang 14 does not start where the kernel spreads addresses over more bits than it knows."""
    fixed = ["setarch", "--addr-no-randomize"]
    return fixed if subprocess.run([*fixed, "true"], capture_output=True).returncode == 0 else []


def run_ctest(tree: Path, only: str = ".") -> Count:
    """The tests of a build tree, of those whose name matches. A tree that cannot be run counts as one failure."""
    report = tree / "ctest.xml"
    report.unlink(missing_ok=True)
    command = fixed_addresses() if tree.name == "tsan" else []
    command += ["ctest", "--test-dir", str(tree), "--tests-regex", only, "--no-tests=error", "--output-on-failure"]
    command += ["--parallel", str(os.cpu_count() or 2), "--output-junit", str(report)]
    command += ["--test-output-size-passed", "10000000", "--test-output-size-failed", "10000000"]
    status = subprocess.run(command).returncode
    if not report.exists():
        return Count(failed=1)
    total = Count()
    for case in ET.parse(report).iter("testcase"):
        total += count_cmocka(case.findtext("system-out", ""), case.get("status") == "run")
    return total if (status == 0) == (total.failed == 0) else total + Count(failed=1)


def run_pytest(args: list[str]) -> Count:
    report = BUILD / "pytest.xml"
    report.unlink(missing_ok=True)
    # Most tests wait for processes. More workers than cores would only make each of them slower.
    workers = str(min(os.cpu_count() or 2, 4))
    command = [sys.executable, "-m", "pytest", "-n", workers, f"--junitxml={report}", *args]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not report.exists():
        return Count(failed=1)
    total = Count()
    for suite in ET.parse(report).iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
        )
        bad = failures + errors
        total += Count(tests - bad - skipped, bad, skipped)
    return total if (status == 0) == (total.failed == 0) else total + Count(failed=1)


def main() -> int:
    total = Count()
    for tree, only in (
        (BUILD, "."),
        (BUILD / "clang", "."),
        (BUILD / "fuzz", "^fuzz_"),
        (BUILD / "tsan", "^alloc_(store|count|threads)$"),
    ):
        print(f"\nunit tests in C: {tree.relative_to(ROOT)}", flush=True)
        total += run_ctest(tree, only)
    total += run_pytest(sys.argv[1:])
    print(f"\n{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
