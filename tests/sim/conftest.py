"""Seeds for the simulation: `--seeds N --from S` (the options: tests/conftest.py).

Without options every run takes the same few hundred seeds, so that a failure is
somebody's change and not the weather, and a few that no run had before. Many seeds go
faster through `scripts/test --seeds`, which does without pytest.
"""

import pytest

from tests.sim.__main__ import fresh_seed

DEFAULT_SEEDS = 300
FIRST_SEED = 1
FRESH_SEEDS = 30


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per seed; its number, and so the way to see it again, is in its name."""
    if "seed" not in metafunc.fixturenames:
        return
    count = metafunc.config.getoption("--seeds")
    first = metafunc.config.getoption("--from")
    if count is None and first is None:
        fresh = fresh_seed()
        seeds = [
            *range(FIRST_SEED, FIRST_SEED + DEFAULT_SEEDS),
            *range(fresh, fresh + FRESH_SEEDS),
        ]
    else:
        first = FIRST_SEED if first is None else first
        seeds = list(range(first, first + (count or DEFAULT_SEEDS)))
    metafunc.parametrize("seed", seeds)
