"""What holds for every test.

In: pytest's options. Out: `--seeds N --from S` for the simulation, and two rules: where
CI is set a skipped kernel or interop test is a failure, and no network namespace of
this run is left behind.
"""

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

_REAL_KERNEL = ("kernel", "interop")
_NAMESPACES = Path("/run/netns")
_STANDING = pytest.StashKey[frozenset[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The simulation's options, defined here so that they work from the root."""
    group = parser.getgroup("syncd", "syncd's simulation")
    group.addoption(
        "--seeds", type=int, default=None, metavar="N", help="how many seeds to run"
    )
    group.addoption(
        "--from", type=int, default=None, metavar="S", help="the first seed to run"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a test of the real kernel that was skipped has failed."""
    report = yield
    real = any(item.get_closest_marker(name) for name in _REAL_KERNEL)
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if real and skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    real = collector.path.parent.name in _REAL_KERNEL
    if real and report.outcome == "skipped" and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure in CI: {report.longrepr}"
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember the namespaces that were there before us."""
    session.config.stash[_STANDING] = _namespaces()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A namespace left behind fails the run; those of other live runs do not count."""
    standing = session.config.stash.get(_STANDING, _namespaces())
    left = sorted(name for name in _namespaces() - standing if _ours(name))
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\nnamespaces left behind: {', '.join(left)}")


def _namespaces() -> frozenset[str]:
    if not _NAMESPACES.is_dir():
        return frozenset()
    return frozenset(entry.name for entry in _NAMESPACES.iterdir())


def _ours(name: str) -> bool:
    """The first number in a name is its maker: this process, or one that has ended."""
    maker = re.search(r"-(\d+)-", f"{name}-")
    if maker is None or int(maker[1]) == os.getpid():
        return True
    return not Path("/proc", maker[1]).exists()
