"""Every parser: the kept inputs, and thousands of fresh ones (`scripts/test --fuzz`)

In: `targets`. Out: the input as hex when a parser breaks its word.
"""

import pytest

from tests.fuzz.__main__ import crash_of, fresh_seed, run_batch
from tests.fuzz.targets import Target, targets

INPUTS = 2000


@pytest.mark.parametrize("target", targets().values(), ids=targets())
def test_what_was_found_once_is_answered(target: Target) -> None:
    for data in target.corpus():
        crash = crash_of(target, data)
        assert not crash, f"{data.hex()}\n{crash}"


@pytest.mark.parametrize("name", targets())
def test_fresh_inputs_are_answered(name: str) -> None:
    seed = fresh_seed()
    for data, crash in run_batch((name, seed, INPUTS)).crashes:
        pytest.fail(f"seed {seed}, input {data.hex()}\n{crash}")
