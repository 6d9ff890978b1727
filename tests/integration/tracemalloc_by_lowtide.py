"""CPython's own test_tracemalloc with lowtide.tracemalloc in the module's place, in whatever Python runs this file.

    python tracemalloc_by_lowtide.py '{"test_name": "why it is left out", ...}'

Prints, as one literal, how many tests there are, and the names of those that did not pass. Exit status 77: this Python comes without
the test.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import unittest

if importlib.util.find_spec("test.test_tracemalloc") is None:
    sys.exit(77)

import lowtide.tracemalloc
from test import test_tracemalloc


class Deeper(unittest.TextTestRunner):
    """test_snapshot asks for more than ten frames, which a test run by regrtest has."""

    def run(self, test: unittest.TestSuite | unittest.TestCase, depth: int = 10) -> unittest.TextTestResult:
        return self.run(test, depth - 1) if depth else super().run(test)


def main() -> None:
    left_out = json.loads(sys.argv[1])
    test_tracemalloc.tracemalloc = lowtide.tracemalloc
    suite = unittest.defaultTestLoader.loadTestsFromModule(test_tracemalloc)
    for case in [case for group in suite for case in group]:
        name = case.id().split(".")[-1]
        why = left_out.get(name) or left_out.get(type(case).__name__)
        if why:
            setattr(case, name, unittest.skip(why)(getattr(case, name)))
    out = io.StringIO()
    result = Deeper(out).run(suite)
    bad = [case.id() for case, _ in result.failures + result.errors] + [c.id() for c in result.unexpectedSuccesses]
    print(out.getvalue(), file=sys.stderr)
    print(
        repr(
            {"tests": suite.countTestCases(), "bad": bad, "skipped": sorted((c.id(), why) for c, why in result.skipped)}
        )
    )


if __name__ == "__main__":
    main()
