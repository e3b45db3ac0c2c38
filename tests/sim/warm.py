"""A warm standby in a simulated node: what the daemon's `Warm` does, in virtual time.

In: the steps of a `Standby`, promotions. Out: requests to the model kernel, and what
came of them. The rule: as in the daemon an answer may come later, when events have come
in between, or not at all; a promotion waits for what is not planted yet.
"""

import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from syncd.flows.batch import Restorer, TimedRecord
from syncd.flows.commit import CommitPlan
from syncd.flows.planting import deletes, lookups
from syncd.flows.record import EXPECTATION
from syncd.replication.peer import Peer
from syncd.replication.roles import sources
from syncd.replication.standby import Standby
from syncd.replication.steps import Step, Task
from syncd.replication.told import age_s, outdated

from tests.sim.ctnetlink import GRE, LAST_ACK
from tests.sim.requests import Requests
from tests.sim.takeover import take_over
from tests.sim.watch import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimulatedNode

_SHARE = 0.95  # of the kernel's table that may be filled by copies
_SPACE_S = 1.0  # between two looks at the size of the kernel's table
_RETRY_S = 1.0  # after requests failed altogether
_WAIT_S = 0.05  # for what a promotion needs first
_ADOPTED_S = 0.05  # after a promotion, at most
_ADOPTED_AT_ONCE = 16
_UNSEEN_S = 4.0  # by which packets may move a timer unnoticed
_RACE_S = 0.1  # between a look at an entry and its deletion, if answers come at once
_STEPS_BETWEEN = 8

Work = Generator[float, None, None]  # yields the times that answers take


@dataclass(frozen=True, slots=True)
class Warmth:
    """How a warm node is driven; times in virtual seconds."""

    long_s: int = 60  # the longest timer of a copy
    beat_s: float = 0.02
    steps: int = 16  # of one beat
    answer_s: float = 0.0  # that a batch takes when the kernel is busy, at most
    failure: float = 0.0  # share of the batches that get no answer


class SimulatedStandby:
    """Keeps one model kernel as the peers' are, in one life of the daemon."""

    def __init__(self, node: "SimulatedNode", warmth: Warmth) -> None:
        engine = node.running
        self.standby = Standby(
            *(engine.node, engine.own, engine.peers, engine.roles), warmth.long_s
        )
        self.standby.wants = engine.admission.wants
        self.standby.take_own = engine.admission.events
        self.rng = random.Random(node.name + repr(warmth) + str(engine.epoch))
        self.requests = Requests(node.kernel, node.clock, self.rng)
        self.taken: set[bytes] = set()  # by promotions in this life
        self._node = node
        self._warmth = warmth
        self._work: Work | None = None  # a beat whose answers have not come yet
        self._adopting: Work | None = None
        self._space_at = 0.0
        node.later(warmth.beat_s, self._beat)

    # Beats

    def _beat(self) -> None:
        node, wait_s = self._node, self._warmth.beat_s
        behind = len(node.kernel.queue.waiting) >= node.habits.drain_limit
        if not node.paused and node.running.kernel_read and not behind:
            if self._work is None:
                self._work = self._steps(self._warmth.steps)
            wait_s = self._go_on(wait_s)
        node.later(wait_s, self._beat)

    def _go_on(self, wait_s: float) -> float:
        """Work until an answer is awaited; how long to wait before the next beat."""
        assert self._work is not None
        for delay_s in self._work:
            return delay_s
        self._work = None
        if self.standby.idle:
            return wait_s
        return wait_s / 4

    def _complete(self) -> None:
        """Wait for the beat that goes on."""
        work, self._work = self._work, None
        for _ in work or ():
            pass

    def _steps(self, count: int) -> Work:
        node, standby = self._node, self.standby
        now = node.local.now
        if now >= self._space_at:
            self._space_at = now + _SPACE_S
            limit = node.kernel.limit
            room = int(limit * _SHARE) - len(node.kernel.flows) if limit else None
            standby.room = room
        standby.look(now)
        node.watch.lost(node)
        for _ in range(count):
            step = standby.next_step(node.local.now)
            node.watch.own(node)
            if step is None:
                return
            faulty = node.faulty and self.rng.random() < self._warmth.failure
            yield from self._carry_out(step, faulty=faulty)
            if faulty:
                node.note("no answer to what the standby asked")
                yield _RETRY_S
                return

    def _carry_out(self, step: Step, *, faulty: bool) -> Work:
        standby, node, exchange = self.standby, self._node, self.requests.exchange
        begin = node.local.now
        if faulty and self.rng.random() < 0.5:  # it was not sent at all
            standby.again(step, node.local.now)
        elif step.plan is not None:
            plan = step.plan
            while (batch := plan.next_batch()) is not None:
                answers = exchange(batch.messages)
                yield from self._answer()
                if faulty:
                    standby.again(step, node.local.now)
                    return
                plan.report(batch, *answers)
            standby.planted(plan, node.local.now)
        elif step.task is Task.LOOK:
            found = dict(exchange(lookups(step.keys)).replies)
            yield from self._answer()
            if faulty:
                standby.again(step, node.local.now)
                return
            replies = [found.get(index) for index in range(len(step.keys))]
            now = node.local.now
            standby.looked(step.keys, replies, now, now - begin)
        elif step.task is Task.DELETE:
            node.drain_all()
            node.look_up()
            keys = standby.register.deletable(step.keys)
            self._may_be_deleted(keys)
            exchange(deletes(keys))
            yield from self._answer()
            if faulty:
                standby.again(step, node.local.now)
                return
            standby.deleted(keys)
        else:
            exchange(step.messages)
            yield from self._answer()
            if faulty:
                standby.again(step, node.local.now)
                return
            standby.advanced(step.keys)
            node.drain_all()
            node.look_up()
        node.watch.own(node)

    def _answer(self) -> Work:
        if self._warmth.answer_s and self.rng.random() < 0.3:
            yield self.rng.uniform(0.0, self._warmth.answer_s)

    def _may_be_deleted(self, keys: Iterable[bytes]) -> None:
        """A copy whose packets come here is not one any more."""
        node, register = self._node, self.standby.register
        now = node.clock.now
        for key in keys:
            entry, body = node.kernel.flows.get(key), register.get(key)
            if entry is None or body is None or entry.met_at < entry.began_at:
                continue
            if entry.facts.orig.protocol == GRE:
                continue  # only an event tells of its packets
            if now - entry.met_at < _RACE_S + _STEPS_BETWEEN * self._warmth.answer_s:
                continue
            closing = max(node.watch.last_states(key), default=0) >= LAST_ACK
            unseen = abs(entry.expires - entry.timer_end) <= _UNSEEN_S
            another = any(key in p.flows.bodies for p in node.running.peers.values())
            if not (closing or unseen or another):
                raise Violation(f"{node.name} deletes what lives here: {key.hex()}")

    # Promotions

    def settle(self) -> None:
        """The own tables know of the last promotion."""
        work, self._adopting = self._adopting, None
        for _ in work or ():
            pass

    def promote(self) -> None:
        """As soon as it can: what is told is here, and becomes own right after."""
        node = self._node
        engine = node.running
        if node.paused or not engine.kernel_read or engine.dump_wanted or node.dumping:
            node.later(_WAIT_S, self.promote)
            return
        self._complete()
        self.settle()
        node.drain_all()
        peers = sources(engine.peers.values())
        self._finish()
        own = engine.own
        own.flows.disturbed = set()
        failures = self._commit_outdated(peers)
        taken = self.standby.take(peers)
        self._all_is_here(peers)
        self.taken.update(taken)
        node.watch.adopted(node.name, taken)
        self._adopting = self._adopt(taken)
        if own.flows.held or any(peer.departed.bodies for peer in peers):
            self.settle()
            take_over(node)
        else:
            self._go_adopting()
        engine.promote(node.local.now)
        if not failures and not self.standby.refused.reasons:
            for peer in peers:
                peer.take()
        node.watch.own(node)
        node.pump()

    def _finish(self) -> None:
        """All that waits now is in the kernel, or refused."""
        standby = self.standby
        standby.hurry()
        through = standby.rounds + 2
        while True:
            for _ in self._steps(1 << 20):
                pass
            if standby.idle or standby.rounds >= through:
                return

    def _commit_outdated(self, peers: list[Peer]) -> int:
        """Own flows of which these peers know more are no copies; refusals."""
        node = self._node
        engine, own, now = node.running, node.running.own, node.local.now
        everybody = engine.peers.values()
        untouched = self.standby.left_alone(own.flows.bodies.items())
        records = outdated(untouched, everybody, peers, engine.roles, now)
        records = [record for record in records if record[0] not in own.flows.held]
        plan = CommitPlan(records, own.flows.bodies)
        if records:
            while (batch := plan.next_batch()) is not None:
                plan.report(batch, *self.requests.exchange(batch.messages))
            self.standby.displaced(plan.displaced, now)
            node.watch.adopted(node.name, (key for key, _, _ in records))
            own.adopt(records)
        return plan.result.failures

    def _all_is_here(self, peers: list[Peer]) -> None:
        """A promotion leaves every flow that was told in this kernel."""
        node = self._node
        refused = self.standby.refused.reasons
        for peer in peers:
            for key in peer.flows.bodies:
                if key not in node.kernel.flows and key not in refused:
                    if key in node.running.own.flows.held:
                        continue
                    if key in node.watch.falsified:
                        continue  # nothing had touched it
                    if key in (node.running.own.flows.left or ()):
                        continue  # it lived here, and has ended in this moment
                    raise Violation(
                        f"{node.name} is promoted without {key.hex()} of {peer.name}"
                    )

    def _go_adopting(self) -> None:
        work = self._adopting
        if work is None:
            return
        if self._node.paused:
            self._node.later(0.01, self._go_adopting)
            return
        for delay_s in work:
            self._node.later(delay_s, self._go_adopting)
            return
        self._adopting = None

    def _adopt(self, taken: dict[bytes, bytes]) -> Work:
        """Copies become own, with their real timers."""
        node, standby = self._node, self.standby
        engine = node.running
        own, peers = engine.own, engine.peers.values()
        restorer = Restorer(None)
        yield self.rng.uniform(0.0, _ADOPTED_S)
        left = iter(tuple(taken.items()))
        while part := list(islice(left, _ADOPTED_AT_ONCE)):
            now = node.local.now
            records: list[TimedRecord] = [
                (key, body, age_s(peers, key, now)) for key, body in part
            ]
            flows = [record for record in records if record[0][6] != EXPECTATION]
            own.adopt(records)
            disturbed = own.flows.disturbed
            if disturbed is not None:
                flows = [record for record in flows if record[0] not in disturbed]
                held = [body for _, body, _ in flows]
                messages = filter(None, restorer.refreshes(flows, held, 1))
                self.requests.exchange(list(messages))
            node.watch.own(node)
            yield self.rng.choice((0.0, 0.001))
        standby.adopting = {}
        if own.flows.disturbed is None:  # ends were lost since, too
            node.uncertain, node.dumped = True, False
        own.flows.disturbed = None
        ended, standby.ended_early = standby.ended_early, []
        for peer in peers:
            engine.agreement.ended_by(peer, ended)
        engine.dump_wanted = True
        node.pump()
