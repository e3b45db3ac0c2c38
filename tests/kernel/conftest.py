"""Kernel tests need root: without it they skip aloud; in CI a skip is a failure."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.kernel.cluster import STANDBY
from tests.lab import Lab

_PROGRAMS = ("ip", "nft", "conntrack")


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root (network namespaces); run it with sudo"
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    return f"needs the programs {', '.join(absent)}" if absent else ""


@pytest.fixture(autouse=True)
def require_kernel() -> None:
    """Skip with the reason, or fail where CI is set."""
    missing = _missing()
    if not missing:
        return
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def standby(request: pytest.FixtureRequest) -> str:
    """What the test's mark says (`cluster.BOTH`, `TABLE`), or the environment."""
    return str(getattr(request, "param", STANDBY))


@pytest.fixture
def lab(require_kernel: None) -> Iterator[Lab]:  # noqa: ARG001 - ordering only
    """Namespaces that are gone after the test."""
    with Lab("test") as made:
        yield made
