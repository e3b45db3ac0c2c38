"""The beat that tells the engine what this kernel is set to.

In: what the kernel says, every few seconds, at SIGHUP and when somebody wants to know.
Out: the engine's items. The rule: the loop does not wait for the kernel; what cannot be
read for once is as it was.
"""

import asyncio
import contextlib
import logging
import time

from syncd.daemon.failure import watched
from syncd.errors import KernelError
from syncd.kernel.fate import read_fate, read_policies
from syncd.replication.engine import ReplicationEngine
from syncd.replication.fate import Told

_LOG = logging.getLogger("syncd.kernel")
_BEAT_S = 5.0  # it takes a millisecond


class FateBeat:
    """Reads on a slow beat: some fifty small files and two questions."""

    def __init__(self, engine: ReplicationEngine) -> None:
        self._engine = engine
        self._policies: dict[str, int | str] = {}
        self._failed = False  # was it said that policies cannot be read?
        self._wanted = asyncio.Event()
        self._reading = asyncio.Lock()
        self._beat: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read now, and begin the beat."""
        self._beat = watched(self._run(), "reading the kernel's settings")

    def close(self) -> None:
        """Stop."""
        if self._beat is not None:
            self._beat.cancel()

    def hurry(self) -> None:
        """Read as soon as it can be."""
        self._wanted.set()

    async def read(self) -> None:
        """What the kernel is set to at this moment."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        try:
            self._policies = await asyncio.to_thread(read_policies)
            self._failed = False
        except KernelError as error:
            if not self._failed:
                self._failed = True
                _LOG.warning("policies are not compared with the peers': %s", error)
        items = await asyncio.to_thread(read_fate) | self._policies
        self._engine.use_fate(items.items(), time.monotonic())

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            await self.read()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _BEAT_S)


def fate_object(told: Told) -> dict[str, object]:
    """How a peer's kernel is set, beside ours: for `status` and `verify`."""
    found = told.differences
    return {
        "equal": None if found is None else not found,
        "differences": [
            {"what": item.what, "here": item.here, "there": item.there}
            for item in found or ()
        ],
    }
