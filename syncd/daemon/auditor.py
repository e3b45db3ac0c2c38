"""The audit beat: from time to time the own tables are compared with the kernel's.

In: a socket to dump and ask with, the listener's queue. Out: own tables that are true,
counters, one log line for each audit that found something. The rule: nothing waits for
an audit. It reads a few records, rests for twenty times as long, lets the event queue
go first, and gives way to whatever reads or writes the whole table.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from syncd.daemon.failure import watched
from syncd.daemon.listener import Listener
from syncd.errors import KernelError
from syncd.flows import restore
from syncd.flows.audit import Audit, Findings
from syncd.flows.reader import RecordReader
from syncd.flows.record import Record
from syncd.kernel.requests import RequestSocket
from syncd.replication.engine import ReplicationEngine

_LOG = logging.getLogger("syncd.kernel")
_REST = 20.0  # times as long as was worked: some 5 % of a CPU
_REST_LIMIT_S = 0.25
_ASK_AT_ONCE = 256  # GETs, one to two milliseconds
_NOTE_AT_ONCE = 8192
_BUSY_S = 1.0  # before it is tried again


class Auditor:
    """Compares on a beat; `busy` says that a command changes or reads it all now."""

    def __init__(
        self,
        requests: RequestSocket,
        listener: Listener,
        engine: ReplicationEngine,
        busy: Callable[[], bool],
    ) -> None:
        self.audits = 0  # that were carried to their end
        self.differences = 0  # that all of them found and put right
        self.last: dict[str, object] | None = None
        self._requests = requests
        self._listener = listener
        self._engine = engine
        self._busy = busy
        self._reader = RecordReader()
        self._beat: asyncio.Task[None] | None = None
        self._worked_s = 0.0

    def start(self, interval_s: float) -> None:
        """Begin the beat; 0 seconds: there is none."""
        if interval_s:
            self._beat = watched(self._run(interval_s), "auditing")

    def close(self) -> None:
        """Stop."""
        if self._beat is not None:
            self._beat.cancel()
        self._requests.close()

    async def _run(self, interval_s: float) -> None:
        wait_s = interval_s
        while True:
            await asyncio.sleep(wait_s)
            complete = False
            try:
                complete = await self._compare()
            except KernelError as error:
                _LOG.warning("audit: %s; trying again", error)
            wait_s = interval_s if complete else min(interval_s, _BUSY_S)

    async def _compare(self) -> bool:
        """One audit; False if it gave way."""
        if self._gives_way():
            return False
        began, self._worked_s = time.monotonic(), 0.0
        audit = Audit(self._engine.own, self._accepts, self._engine.admission.events)
        while audit.note(_NOTE_AT_ONCE):  # noqa: ASYNC110 - not a wait
            await asyncio.sleep(0)
        async with aclosing(self._requests.dump("flows")) as dump:
            async for messages in dump:
                since = time.thread_time() - self._requests.take_dump_cpu_s()
                audit.compare(self._reader.read(messages))
                if audit.suspects >= _ASK_AT_ONCE:
                    self._judge(audit, audit.take_suspects(_ASK_AT_ONCE))
                await self._rest(since)
                if self._gives_way():
                    return False
        while keys := audit.take_suspects(_ASK_AT_ONCE) or audit.take_unseen(
            _ASK_AT_ONCE
        ):
            since = time.thread_time()
            self._judge(audit, keys)
            await self._rest(since)
            if self._gives_way():
                return False
        await self._listener.read_expectations()  # few, and their changes are silent
        self._note(audit.found, time.monotonic() - began)
        return True

    def _accepts(self, key: bytes, body: bytes) -> bool:
        return self._engine.admission.admits(key, body, time.monotonic())

    def _gives_way(self) -> bool:
        """Does somebody read the whole table anyway, or write much of it?"""
        engine = self._engine
        return (
            engine.dump_wanted
            or not engine.kernel_read
            or engine.own.flows.touched is not None
            or self._busy()
        )

    def _judge(self, audit: Audit, keys: Sequence[bytes]) -> None:
        """Ask the kernel between two looks at the queue; nothing else runs meanwhile.

        An event of the second look is newer than what was suspected, or as new as the
        reply: the keys that it touches are left to it.
        """
        flows = self._engine.own.flows
        self._listener.drain()
        if flows.touched is not None:
            return  # somebody has begun to read it all
        requests = [restore.lookup(key, number) for number, key in enumerate(keys, 1)]
        flows.touched = set()
        try:
            found = [reply for reply in self._requests.get(requests) if reply]
            self._listener.drain()
            if not self._engine.dump_wanted:
                replies: dict[bytes, Record] = {}
                for record in self._reader.read(found):
                    replies[record[1]] = record
                audit.judge(keys, replies, time.monotonic())
        finally:
            flows.touched = None

    async def _rest(self, since: float) -> None:
        """Let others work; changes that were found leave meanwhile."""
        worked_s = time.thread_time() - since
        self._worked_s += worked_s
        self._listener.pump()
        await asyncio.sleep(min(worked_s * _REST, _REST_LIMIT_S))
        while self._listener.behind:  # noqa: ASYNC110 - for a fraction of a second
            await asyncio.sleep(_REST_LIMIT_S)

    def _note(self, found: Findings, seconds: float) -> None:
        self.audits += 1
        self.differences += found.differences
        self.last = {
            "records": found.records,
            "unknown": found.unknown,
            "changed": found.changed,
            "ended": found.ended,
            "timers": found.timers,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(self._worked_s, 3),
        }
        if found.differences:
            _LOG.warning(
                "audit: %d records were not as in the kernel and are now: %d were "
                "unknown, %d changed, %d had ended; for instance %s",
                found.differences,
                *(found.unknown, found.changed, found.ended),
                "; ".join(found.examples),
            )
