"""Requests that never hold the event loop up, also when the kernel is busy.

In: batches of messages. Out: the kernel's answers. The rule: a batch takes the kernel a
millisecond or two, so it is sent at once; that is cheaper than a thread. But changes of
the tables of a whole machine go through one lock (`nfnl_lock`): when it turns out that
others hold it, a thread waits for it, until it is free again for a while.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from syncd.kernel.requests import Answers, RequestSocket

_SLOW_S = 0.01  # for one batch
_WARY_S = 5.0  # since the last slow one


class Errands:
    """Has a socket for itself, for a thread may be waiting in it."""

    def __init__(self) -> None:
        self.slow = 0  # batches that met a busy kernel
        self._requests = RequestSocket()
        self._worker = ThreadPoolExecutor(1, "errands")
        self._wary_until = 0.0

    @property
    def portid(self) -> int:
        """The netlink address: events that these requests cause carry it."""
        return self._requests.portid

    async def run(self, messages: Sequence[bytes]) -> Answers:
        """The answers, when the kernel has worked through all messages."""
        begin = time.monotonic()
        if begin < self._wary_until:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(
                self._worker, self._requests.exchange, messages
            )
        else:
            answers = self._requests.exchange(messages)
        end = time.monotonic()
        if end - begin > _SLOW_S:
            self.slow += 1
            self._wary_until = end + _WARY_S
        return answers

    async def get(self, requests: Sequence[bytes]) -> list[bytes | None]:
        """The replies to single GETs, None for what is not there."""
        found = dict((await self.run(requests)).replies)
        return [found.get(index) for index in range(len(requests))]

    def dump(self) -> AsyncGenerator[list[bytes], None]:
        """The messages of all flows; other errands go on meanwhile."""
        return self._requests.dump("flows")

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)
        self._requests.close()
