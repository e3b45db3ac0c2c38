"""The beat on which the kernel is asked for what it tells nobody.

In: the listener, whose turn at the kernel it waits for. Out: lookups of flows that
helpers rewrite, and dumps of the expectations, merged like any other. The rule: nothing
is asked while there is neither, and asking takes a small share of the time.
"""

import asyncio
import logging
import time

from syncd.daemon.failure import watched
from syncd.daemon.listener import Listener
from syncd.errors import KernelError
from syncd.kernel.requests import RequestSocket
from syncd.replication.engine import ReplicationEngine

_LOG = logging.getLogger("syncd.kernel")
BEAT_S = 0.5
_SHARE = 20  # asking takes one part of so many at most


class Unspoken:
    """Asks on a beat; begins with `start` and ends with `close`."""

    def __init__(
        self, listener: Listener, reader: RequestSocket, engine: ReplicationEngine
    ) -> None:
        self._listener = listener
        self._reader = reader
        self._engine = engine
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Come back in a beat, for ever."""
        self._rest(BEAT_S)

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _rest(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._beat)

    def _beat(self) -> None:
        own = self._engine.own
        for text in own.wildcards.take_news():
            _LOG.warning(text)
        if own.unspoken and not self._listener.busy:
            self._reading = watched(self._ask(), "reading what helpers do")
        else:
            self._rest(BEAT_S)

    async def _ask(self) -> None:
        began = time.thread_time()  # a busy machine must not make it rarer
        own = self._engine.own
        own.ask_helped()
        if own.expectations.bodies:
            try:
                await self._listener.read_expectations()
            except KernelError as error:
                _LOG.warning("reading expectations: %s", error)
        else:
            self._listener.look_up()
        self._reading = None
        self._rest(max(BEAT_S, _SHARE * (time.thread_time() - began)))
