"""Seeds for the simulation: `--seeds N --from S` (the options: tests/conftest.py).

Without options every run takes the same few hundred seeds, so that a failure is
somebody's change and not the weather; nightly runs ask for fresh ones.
"""

import pytest

DEFAULT_SEEDS = 300
FIRST_SEED = 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per seed."""
    if "seed" not in metafunc.fixturenames:
        return
    count = metafunc.config.getoption("--seeds")
    first = metafunc.config.getoption("--from")
    count = DEFAULT_SEEDS if count is None else count
    first = FIRST_SEED if first is None else first
    metafunc.parametrize("seed", range(first, first + count))
