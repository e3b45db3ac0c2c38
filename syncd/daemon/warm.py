"""The warm standby at work: its steps are carried out beat by beat.

In: the steps of `Standby`, promotions, questions. Out: requests to this kernel, and
what came of them. The rule: a beat takes some milliseconds, what is left waits for the
next one. A promotion waits for what is not planted yet and for nothing else: who owns
the copies is settled afterwards.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from itertools import islice

from syncd.config import CommitConfig
from syncd.daemon.errands import Errands
from syncd.daemon.failure import watched
from syncd.daemon.listener import Listener
from syncd.errors import KernelError
from syncd.flows.batch import Restorer, TimedRecord
from syncd.flows.commit import TABLE_FULL, CommitPlan, Result
from syncd.flows.masks import Masks
from syncd.flows.planting import deletes, lookups
from syncd.flows.reader import RecordReader
from syncd.flows.record import EXPECTATION
from syncd.flows.timers import Timers
from syncd.kernel import host
from syncd.replication.engine import ReplicationEngine
from syncd.replication.inspection import Inspection
from syncd.replication.peer import Peer
from syncd.replication.standby import Standby
from syncd.replication.steps import Step, Task
from syncd.replication.told import age_s, outdated

_LOG = logging.getLogger("syncd.warm")
_BEAT_S = 0.02  # in which changes gather
_BUDGET_S = 0.008  # of one beat
_BREATH_S = 0.002  # between two beats when more waits
_SPACE_S = 1.0  # between two looks at the size of the kernel's table
_SHARE = 0.95  # of the kernel's table that may be filled by copies
_ADOPT_AT_ONCE = 1024
_COMPARED_AT_ONCE = 8192  # own flows with what peers tell
_LOOK_S = 0.01  # between two looks at what others do
_ANSWER_S = 0.01  # for the answer of a promotion to go out
_RETRY_S = 1.0  # after requests failed altogether


class Warm:
    """Keeps this kernel as the peers' kernels are."""

    def __init__(
        self,
        engine: ReplicationEngine,
        listener: Listener,
        config: Callable[[], CommitConfig],
        long_s: int,
    ) -> None:
        self.standby = Standby(
            engine.node, engine.own, engine.peers, engine.roles, long_s
        )
        self.standby.wants = engine.admission.wants
        self.standby.take_own = engine.admission.events
        engine.readiness.beside = self.standby.lacking
        self._engine = engine
        self.errands = Errands()
        self._listener = listener
        self._config = config
        self._timer: asyncio.TimerHandle | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._inspecting = asyncio.Lock()
        self._space_at = 0.0
        self._worked_at = 0.0  # when the last beat began that had something to do
        self._verified: dict[str, object] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def adopting(self) -> bool:
        """Is what was planted about to become own?"""
        return self._adopting is not None and not self._adopting.done()

    def start(self) -> None:
        self._timer = self._loop.call_later(_BEAT_S, self._timed)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (self._working, self._adopting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.errands.close()

    def follow(self) -> None:
        """Changes came just now: write them while they are at hand."""
        timer, now = self._timer, self._loop.time()
        if (
            timer is not None
            and now + _BREATH_S < timer.when() <= now + _BEAT_S
            and now >= self._worked_at + _BEAT_S / 2
            and not self.standby.idle
        ):
            timer.cancel()
            self._timer = self._loop.call_later(_BREATH_S, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._working = watched(self._work(), "warm standby")

    async def _work(self) -> None:
        wait_s = _BEAT_S
        if not self.standby.idle:
            self._worked_at = self._loop.time()
        # What a dump has not shown yet may be own: it must not be taken for a copy.
        if self._engine.kernel_read and not self._listener.behind:
            try:
                done = await self._beat()
                wait_s = _BEAT_S if done else _BREATH_S
            except KernelError as error:
                _LOG.warning("writing peers' flows into the kernel: %s", error)
                wait_s = _RETRY_S
        self._timer = self._loop.call_later(wait_s, self._timed)

    async def _beat(self) -> bool:
        """Work for some milliseconds; is all done?"""
        async with self._turn:
            now = time.monotonic()
            if now >= self._space_at:
                self._space_at = now + _SPACE_S
                self._look_for_space()
                self.standby.masks = Masks.of(self._config())
            standby = self.standby
            standby.look(now)
            end = now + _BUDGET_S
            while now < end:
                step = standby.next_step(now)
                if step is None:
                    return standby.idle
                try:
                    await self._carry_out(step)
                except KernelError:
                    standby.again(step, time.monotonic())
                    raise
                now = time.monotonic()
            return False

    def _look_for_space(self) -> None:
        limit = host.table_limit()
        room = int(limit * _SHARE) - host.table_count() if limit else None
        self.standby.room = room

    async def _carry_out(self, step: Step) -> None:
        standby, errands = self.standby, self.errands
        begin = time.monotonic()
        if step.plan is not None:
            plan = step.plan
            while (batch := plan.next_batch()) is not None:
                plan.report(batch, *(await errands.run(batch.messages)))
            now = time.monotonic()
            standby.planted(plan, now, now - begin)
            if plan.strangers:
                self._listener.drain()  # they are looked up there
        elif step.task is Task.LOOK:
            replies = await errands.get(lookups(step.keys))
            now = time.monotonic()
            standby.looked(step.keys, replies, now, now - begin)
        elif step.task is Task.DELETE:
            self._listener.drain()  # some may have become own in this very moment
            keys = standby.register.deletable(step.keys)
            await errands.run(deletes(keys))
            standby.deleted(keys)
        else:
            await errands.run(step.messages)
            standby.advanced(step.keys)
            self._listener.drain()  # what became of them is looked up there

    async def _finish(self) -> None:
        """Return when all that is waiting now is in the kernel, or refused."""
        standby = self.standby
        through = standby.rounds + 2
        while not await self._beat() and standby.rounds < through:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Return when the own tables know of the last promotion."""
        if self._adopting is not None:
            await self._adopting

    async def commit(self, peers: list[Peer]) -> Result:
        """What these peers tell is in this kernel, and becomes own right after."""
        await self.settle()
        if not self._engine.kernel_read:
            await self._listener.read_kernel()
        await self._listener.catch_up()
        standby, own = self.standby, self._engine.own
        before = standby.counts.created + standby.counts.replanted
        standby.hurry()
        await self._finish()
        own.flows.disturbed = set()
        result = await self._commit_outdated(peers)
        taken = standby.take(peers)
        created = standby.counts.created + standby.counts.replanted - before
        created = min(created, len(taken))
        result.created += created
        result.unchanged += len(taken) - created
        for reason, count in standby.refused.counts().items():
            result.failed[reason] = result.failed.get(reason, 0) + count
        if TABLE_FULL in result.failed:
            result.error = (
                "the kernel's connection tracking table has no room for all copies, "
                "raise net.netfilter.nf_conntrack_max"
            )
        self._adopting = watched(self._adopt(taken), "adopting what was planted")
        return result

    async def _commit_outdated(self, peers: list[Peer]) -> Result:
        """Own flows of which these peers know more are no copies: commit them."""
        own, now = self._engine.own, time.monotonic()
        everybody, roles = self._engine.peers.values(), self._engine.roles
        records: list[TimedRecord] = []
        left = iter(tuple(own.flows.bodies.items()))
        while part := list(islice(left, _COMPARED_AT_ONCE)):
            untouched = self.standby.left_alone(part)
            records += outdated(untouched, everybody, peers, roles, now)
            await asyncio.sleep(0)
        records = [record for record in records if record[0] not in own.flows.held]
        config = self._config()
        held = own.flows.bodies
        timers = Timers.read(host.read_setting)
        plan = CommitPlan(records, held, config.timeout, Masks.of(config), timers)
        if records:
            while (batch := plan.next_batch()) is not None:
                plan.report(batch, *(await self.errands.run(batch.messages)))
            self.standby.displaced(plan.displaced, time.monotonic())
            own.adopt(records)
        return plan.result

    async def _adopt(self, taken: dict[bytes, bytes]) -> None:
        """Copies become own, with their real timers."""
        await asyncio.sleep(_ANSWER_S)
        own, standby, peers = (
            self._engine.own,
            self.standby,
            self._engine.peers.values(),
        )
        config = self._config()
        timers = Timers.read(host.read_setting)
        restorer = Restorer(config.timeout, Masks.of(config).attributes, timers)
        left = iter(tuple(taken.items()))
        while part := list(islice(left, _ADOPT_AT_ONCE)):
            now = time.monotonic()
            records = [(key, body, age_s(peers, key, now)) for key, body in part]
            flows = [record for record in records if record[0][6] != EXPECTATION]
            own.adopt(records)
            self._listener.pump()  # peers may be promoted, and need to know
            disturbed = own.flows.disturbed
            if disturbed is not None:  # packets have set their timers, or ended them
                flows = [record for record in flows if record[0] not in disturbed]
                held = [body for _, body, _ in flows]
                messages = filter(None, restorer.refreshes(flows, held, 1))
                await self.errands.run(list(messages))
            await asyncio.sleep(0)
        standby.adopting = {}
        own.flows.disturbed = None
        ended, standby.ended_early = standby.ended_early, []
        for peer in self._engine.peers.values():
            self._engine.agreement.ended_by(peer, ended)
        self._engine.dump_wanted = True
        self._listener.heal()

    async def verify(self, end: float) -> dict[str, object]:
        """Compare every copy with the kernel's entry; put right what can be by `end`.

        Whoever asks may go away at any time: the work is done beat by beat, as always.
        """
        engine, standby = self._engine, self.standby
        complete, different, left = False, 0, 0
        inspection = Inspection(standby, engine.own, engine.peers)
        try:
            async with asyncio.timeout_at(end), self._inspecting:
                try:
                    await self._inspect(inspection)
                    complete = True
                finally:
                    different, left = inspection.counts(time.monotonic())
                    inspection.close()
        except TimeoutError:
            pass
        self._verified = {
            "compared": inspection.copies if complete else inspection.compared,
            "different": different,
            "repaired": different - left,
            "refused": len(standby.refused.reasons),
            "untold": inspection.untold,
            "complete": complete,
        }
        return self._verified

    async def _inspect(self, inspection: Inspection) -> None:
        self.standby.hurry()
        await self._settled()  # what waits is no difference
        inspection.begin()
        reader = RecordReader()
        while inspection.note(_COMPARED_AT_ONCE):  # noqa: ASYNC110 - not a wait
            await asyncio.sleep(0)
        async with aclosing(self.errands.dump()) as dump:
            async for messages in dump:
                inspection.see(reader.read(messages), time.monotonic())
                while self._listener.behind:  # noqa: ASYNC110 - for a fraction of a second
                    await asyncio.sleep(_LOOK_S)
        while inspection.unseen(_COMPARED_AT_ONCE):  # noqa: ASYNC110 - not a wait
            await asyncio.sleep(0)
        told = self.standby.told()
        while part := list(islice(told, _COMPARED_AT_ONCE)):
            async with self._turn:  # nothing is halfway to the kernel
                inspection.miss(part, time.monotonic())
        await self._settled()

    async def _settled(self) -> None:
        """Return when all that is waiting now is in the kernel, or refused."""
        standby = self.standby
        through = standby.rounds + 2
        while self._turn.locked() or not standby.idle:
            if standby.rounds >= through:
                return
            await asyncio.sleep(_LOOK_S)

    def status(self) -> dict[str, object]:
        """What status shows of it."""
        standby, counts = self.standby, self.standby.counts
        return {
            "planted": len(standby.register),
            "waiting": standby.waiting,
            "failed": standby.refused.counts(),
            "created": counts.created,
            "updated": counts.updated,
            "refreshed": counts.refreshed,
            "deleted": counts.deleted,
            "repaired": counts.repaired,
            "replanted": counts.replanted,
            "alive": counts.alive,
            "returned": counts.returned,
            "advanced": counts.advanced,
            "refused": counts.refused,
            "slow": self.errands.slow,
            "verified": self._verified,
        }
