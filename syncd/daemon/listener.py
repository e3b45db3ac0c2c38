"""Kernel to engine: events at our own pace, dumps, and the healing of losses.

In: the event socket, and a socket to dump tables and look single flows up. Out: calls
of the engine, and `after` behind each of them. The rule: never one wake-up per event.
A lone event is taken at once; after that the socket rests for a beat, and everything
that came meanwhile is taken in one go.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from syncd.daemon.failure import watched
from syncd.errors import KernelError
from syncd.flows import restore
from syncd.kernel.events import EventSocket
from syncd.kernel.requests import Dumped, RequestSocket
from syncd.replication.engine import ReplicationEngine

_LOG = logging.getLogger("syncd.kernel")
_DRAIN_LIMIT = 8192  # messages of one visit, some 20 ms
_MANY = 64  # messages of one visit that ask for a longer rest
_BEHIND_LIMIT = 16  # full visits in a row before peers are told: changes merge
_CATCH_UP_LIMIT = 3  # dumps that a commit waits for
_PART = 8192  # records that are noted or swept at once, some milliseconds
_RETRY_S = 1.0  # after a dump that failed


class Listener:
    """Keeps the own tables like the kernel's."""

    def __init__(
        self,
        events: EventSocket,
        reader: RequestSocket,
        engine: ReplicationEngine,
        beat_s: float,
        after: Callable[[], None],
        witness: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        """`witness` is shown every batch of events after the engine took it."""
        self._witness = witness
        self.resyncs = 0  # dumps that were read to their end
        self._events = events
        self._engine = engine
        self._beat_s = beat_s
        self._after = after
        self._reader = reader
        self._reading = asyncio.Lock()
        self._healing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._behind = 0
        self._lossy = False  # were events lost since the last dump began?

    @property
    def behind(self) -> bool:
        """Does more wait in the kernel than one visit takes?

        Then intake goes first, for a fraction of a second: changes merge meanwhile.
        """
        return self._behind > 0

    @property
    def busy(self) -> bool:
        """Is a dump being read, or more to be taken than one visit takes?"""
        return self._reading.locked() or self.behind

    def pump(self) -> None:
        """Let the changes leave that were found."""
        self._after()

    def start(self) -> None:
        """Begin to listen; the first visit also starts the first dump."""
        self._loop.call_soon(self._visit)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        if self._healing is not None:
            self._healing.cancel()
        self._loop.remove_reader(self._events.fileno())

    def drain(self) -> int:
        """Take what waits now; return how many messages that were."""
        batch = self._events.drain(_DRAIN_LIMIT)
        if batch:
            self._engine.kernel_events(batch, time.monotonic())
            if self._witness is not None:
                self._witness(batch)
        self.look_up()
        lost = self._events.check_losses()
        if lost:
            self._lossy = True
            self._engine.own.flows.disturbed = None
            self._engine.dump_wanted = True
            _LOG.warning(
                "%d kernel events were lost: reading the table anew; a larger "
                "[kernel] receive_buffer avoids this",
                lost,
            )
        self.heal()
        return len(batch)

    def heal(self) -> None:
        """Read the kernel's tables if the engine wants that."""
        if self._engine.dump_wanted and self._healing is None:
            self._healing = watched(self._heal(), "reading the kernel")

    def _wake(self) -> None:
        self._loop.remove_reader(self._events.fileno())
        self._visit()

    def _visit(self) -> None:
        """Take what waits; sleep until the next event if that was nothing."""
        self._timer = None
        was_behind = self.behind
        count = self.drain()
        more = count == _DRAIN_LIMIT and self._behind < _BEHIND_LIMIT
        self._behind = self._behind + 1 if more else 0
        if (count or was_behind) and not self.behind:
            self._after()
        if count == 0 and not self._engine.own.lookups:
            self._loop.add_reader(self._events.fileno(), self._wake)
        else:
            self._timer = self._loop.call_later(self._rest_s(count), self._visit)

    def _rest_s(self, count: int) -> float:
        """How long to rest after a visit; under load fewer and larger visits pay."""
        if count == _DRAIN_LIMIT:
            return 0.0
        return self._beat_s if count < _MANY else 2 * self._beat_s

    def look_up(self) -> bool:
        """Ask for flows of which events and dumps do not tell all; were there any?"""
        keys = self._engine.take_lookups()
        if not keys:
            return False
        requests = [restore.lookup(key, index) for index, key in enumerate(keys, 1)]
        try:
            replies = self._reader.get(requests)
        except KernelError as error:
            _LOG.warning("looking up %d flows: %s", len(keys), error)
            self._engine.dump_wanted = True
            return False
        messages = [reply for reply in replies if reply is not None]
        self._engine.kernel_events(messages, time.monotonic())
        return True

    async def read_kernel(self) -> int:
        """Dump the kernel's tables and sweep; return how many records were gone."""
        async with self._reading:
            engine = self._engine
            # What is queued is older than the dump; only what comes later may count
            # for newer (see `OwnTable.fill`).
            await self._drain_all()
            self._lossy = False
            engine.begin_dump(time.monotonic())
            complete = False
            try:
                while engine.own.note(_PART):  # noqa: ASYNC110 - not a wait
                    await asyncio.sleep(0)
                kinds: tuple[Dumped, ...] = ("flows", "expectations")
                for kind in kinds:
                    async for chunk in self._reader.dump(kind):
                        engine.dump_part(chunk, time.monotonic())
                        self._after()
                # What happened up to now must be known before the sweep.
                await self._drain_all()
                while engine.own.sweep(time.monotonic(), _PART):
                    self._after()
                    await asyncio.sleep(0)
                complete = True
            finally:
                if not complete:
                    engine.abort_dump()
            gone = engine.end_dump(time.monotonic())
            while self.look_up():  # noqa: ASYNC110 - not a wait
                await asyncio.sleep(0)
            self.resyncs += 1
            self._after()
            return gone

    async def read_expectations(self) -> None:
        """Dump the expectations: they change without an event."""
        async with self._reading:
            engine = self._engine
            await self._drain_all()
            engine.own.begin_review()
            complete = False
            try:
                async for chunk in self._reader.dump("expectations"):
                    engine.dump_part(chunk, time.monotonic())
                await self._drain_all()
                complete = True
            finally:
                if not complete:
                    engine.own.expectations.abort_dump()
            engine.own.end_review()
            self._after()

    async def catch_up(self) -> None:
        """Bring the own tables up to now: take what waits, heal what was lost."""
        await self._drain_all()
        for _ in range(_CATCH_UP_LIMIT):
            if not self._lossy:
                return
            await self.read_kernel()

    async def _drain_all(self) -> None:
        lookups = self._engine.own.lookups
        while self.drain() == _DRAIN_LIMIT or lookups:  # noqa: ASYNC110 - not a wait
            await asyncio.sleep(0)

    async def _heal(self) -> None:
        """Read the kernel until nothing asks for it any more."""
        try:
            while self._engine.dump_wanted:
                try:
                    await self.read_kernel()
                except KernelError as error:
                    self._engine.dump_wanted = True
                    _LOG.error("reading the kernel's table: %s; trying again", error)
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._healing = None
