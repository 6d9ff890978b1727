"""What lowtide._pytest does with tests: ``pytest --lowtide`` tells which tests need and keep the most memory, and a mark bounds one's.

    @pytest.mark.limit_memory("10 MB")
    def test_it(): ...

What counts is what :mod:`lowtide.tracemalloc` traces: Python's blocks, exactly, and NumPy's arrays.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from lowtide._pool_errors import size

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

PEAK, KEPT = "lowtide_peak_bytes", "lowtide_kept_bytes"

_before = pytest.StashKey[int]()


def _limit(item: pytest.Item) -> int | None:
    from lowtide import _core

    mark = item.get_closest_marker("limit_memory")
    if mark is None:
        return None
    if len(mark.args) != 1 or mark.kwargs:
        raise pytest.UsageError(f"{item.nodeid}: limit_memory takes one size, as limit_memory('10 MB')")
    most = mark.args[0]
    return most if isinstance(most, int) else _core.limit_parse(str(most))[0]


def _traced() -> tuple[int, int]:
    from lowtide import tracemalloc

    return tracemalloc.get_traced_memory()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    if item.config.getoption("--lowtide"):
        from lowtide import tracemalloc

        tracemalloc.start()
        item.stash[_before] = _traced()[0]
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    limit = _limit(item)
    if limit is None and _before not in item.stash:
        return (yield)
    from lowtide import tracemalloc

    for_this_test = not tracemalloc.is_tracing()
    tracemalloc.start()
    tracemalloc.reset_peak()
    before = _traced()[0]
    try:
        result = yield
    finally:
        # A test may stop tracing itself, and then nothing is known.
        peak = max(0, _traced()[1] - before) if tracemalloc.is_tracing() else 0
        if for_this_test:
            tracemalloc.stop()
        item.user_properties.append((PEAK, peak))
    if limit is not None and peak > limit:
        pytest.fail(f"the test held {size(peak)} at once; limit_memory allows {size(limit)}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    if _before in item.stash:
        gc.collect()
        item.user_properties.append((KEPT, _traced()[0] - item.stash[_before]))
    return result


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--lowtide"):
        return
    figures: dict[str, dict[str, int]] = {}
    for reports in terminalreporter.stats.values():  # those of setups and teardowns among them
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name in (PEAK, KEPT):
                    figures.setdefault(report.nodeid, {})[name] = value
    for what, name in (("need most memory at once", PEAK), ("leave most memory behind", KEPT)):
        rows = sorted(figures.items(), key=lambda row: -row[1].get(name, 0))[: config.getoption("--lowtide-tests")]
        terminalreporter.section(f"tests that {what}")
        for nodeid, figure in rows:
            if figure.get(name, 0) > 0:
                terminalreporter.line(f"{size(figure[name]):>12}  {nodeid}")
