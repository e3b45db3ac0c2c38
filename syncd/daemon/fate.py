"""The beat that tells the engine what this kernel is set to.

In: what the kernel says, every minute, at SIGHUP and when somebody wants to know. Out:
the engine's items. The rule: a reader that fails leaves its part out, and says so once.
"""

import asyncio
import logging
import time

from syncd.daemon.failure import watched
from syncd.kernel.fate import read_fate
from syncd.replication.engine import ReplicationEngine
from syncd.replication.fate import Told

_LOG = logging.getLogger("syncd.kernel")
_BEAT_S = 60.0


class FateBeat:
    """Reads on a slow beat: some fifty small files, about a millisecond."""

    def __init__(self, engine: ReplicationEngine) -> None:
        self._engine = engine
        self._beat: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read now, and begin the beat."""
        self._beat = watched(self._run(), "reading the kernel's settings")

    def close(self) -> None:
        """Stop."""
        if self._beat is not None:
            self._beat.cancel()

    def read(self) -> None:
        """What the kernel is set to at this moment."""
        self._engine.use_fate(read_fate().items(), time.monotonic())

    async def _run(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(_BEAT_S)


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
