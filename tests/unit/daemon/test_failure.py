"""What nobody has caught ends the daemon; errors of the system do not."""

import asyncio

import pytest
from syncd.daemon.failure import end_on_failure, watched

pytestmark = pytest.mark.asyncio


def listening() -> list[Exception]:
    failures: list[Exception] = []
    end_on_failure(asyncio.get_running_loop(), failures.append)
    return failures


def fail(error: Exception) -> None:
    raise error


async def fail_later(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_exception_that_leaves_a_callback_is_told() -> None:
    failures, error = listening(), RuntimeError("x")
    asyncio.get_running_loop().call_soon(fail, error)
    await turns()
    assert failures == [error]


async def test_an_exception_that_ends_a_task_is_told_at_once() -> None:
    failures, error = listening(), RuntimeError("x")
    task = watched(fail_later(error), "a task")
    await turns()
    assert failures == [error]
    assert task.done()


async def test_an_error_of_the_system_is_none_of_ours() -> None:
    failures = listening()
    asyncio.get_running_loop().call_soon(fail, OSError(24, "too many files"))
    await turns()
    assert failures == []


async def test_a_task_that_was_cancelled_has_not_failed() -> None:
    failures = listening()
    task = watched(turns(), "a task")
    task.cancel()
    await turns()
    assert failures == []
    assert task.cancelled()
