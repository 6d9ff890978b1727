"""The plugin that pytest finds: options and a mark. What they do is in lowtide._pytest_tests, for which pytest must be 8 or later."""

from __future__ import annotations

import pytest

MARK = 'limit_memory(size): fails the test when it holds more than that at once, as "10 MB" or in bytes'


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lowtide", "memory of tests")
    group.addoption("--lowtide", action="store_true", help="tell which tests need and keep the most memory")
    group.addoption("--lowtide-tests", type=int, default=10, metavar="N", help="how many of them (10)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)
    if int(pytest.__version__.split(".")[0]) >= 8:
        from lowtide import _pytest_tests

        config.pluginmanager.register(_pytest_tests, "lowtide-tests")
    elif config.getoption("--lowtide"):
        raise pytest.UsageError(f"--lowtide needs pytest 8 or later, and this is {pytest.__version__}")
