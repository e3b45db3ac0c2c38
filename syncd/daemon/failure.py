"""What no room has caught: a lost invariant ends the process.

In: exceptions that leave a callback or a task. Out: the word that the daemon failed.
The rule: a crashed node is replaced; one that goes on without its timer or its reader
falls behind and does not know it. Errors of the system (`OSError`) are only logged.
"""

import asyncio
from collections.abc import Callable, Coroutine

Failed = Callable[[Exception], None]
Context = dict[str, object]


def end_on_failure(loop: asyncio.AbstractEventLoop, failed: Failed) -> None:
    """From now on what leaves a callback of this loop is said to `failed`."""

    def broke(loop: asyncio.AbstractEventLoop, context: Context) -> None:
        loop.default_exception_handler(context)
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            failed(error)

    loop.set_exception_handler(broke)


def watched(coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """A task whose exception is told at once, not when somebody asks or never."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    task.get_loop().call_exception_handler(
        {"message": f"{task.get_name()} failed", "exception": error, "task": task}
    )
