"""A warm standby: what to write into this kernel, so that it holds what the peers have.

In: which keys of the peers' tables were touched, what the kernel shows, the time. Out:
steps, each a bounded batch: keys to look at, keys to delete, records to plant, own
flows to bring forward. The caller carries a step out and reports; he asks for the next
one as long as he has time. The rules (docs/adr/0012):

- What peers tell is planted, unless the flow is own: then it is only brought forward.
- Before a copy is deleted or extended, the kernel is asked for it. One that has met
  packets here is own from then on, whatever the peer says.
- A copy is extended while a live peer tells it; of a lost peer, up to its estimate.
- What was own before, shows no sign since and is told by who took over, is a copy now.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from syncd.errors import RecordError
from syncd.flows import restore
from syncd.flows.batch import TimedRecord
from syncd.flows.commit import BATCH_MESSAGES, TABLE_FULL
from syncd.flows.forward import advance, bring
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.own import Own
from syncd.flows.planted import SHORT_S, Planted
from syncd.flows.planting import PlantingPlan, Tools, same_copy
from syncd.flows.reader import RecordReader
from syncd.flows.record import EXPECTATION, status_of, without_timeout
from syncd.flows.selection import is_newer
from syncd.replication.peer import Peer, PeerState
from syncd.replication.refused import FIRST_RETRY_S, Refused
from syncd.replication.roles import PRIMARY, Roles
from syncd.replication.steps import Step, Task, WarmCounts

FORMER_S = 120.0  # in which what was own before may turn out to be a copy
ELDER_FRAMES = 20  # who has sent so many was there before us
_GLEANED_AT_ONCE = 4096
_GLEAN_INTERVAL_S = 0.1
_AWAITED_S = 5  # between two looks at what a restarted primary may have lost


Told = tuple[Peer, bytes, int]  # who says it, body, the second in which it came


class Standby:
    """What this node plants; `long_s` is the longest timer of a copy."""

    def __init__(
        self,
        node: str,
        own: Own,
        peers: Mapping[str, Peer],
        roles: Roles,
        long_s: int,
    ) -> None:
        self._node = node
        self.counts = WarmCounts()
        self.refused = Refused()
        self.rounds = 0  # when one begins, all that was touched before is through
        self.room: int | None = None  # entries that the kernel's table has room for
        self.register = Planted(own, long_s)
        self.wants: Callable[[bytes, bytes], bool] = _anything  # the filter's word
        self._own = own
        self._peers = peers
        self._roles = roles
        self._reader = RecordReader()
        self.masks = WHOLE  # which bits of marks and labels are planted
        self._tools: dict[tuple[int, Masks], Tools] = {}
        self._touched: set[bytes] = set()
        self._sorting: deque[bytes] = deque()
        self._looks: deque[bytes] = deque()
        self._ended: set[bytes] = set()  # by their peer; to be looked at, then deleted
        self._deletes: list[bytes] = []
        self._advances: list[bytes] = []
        self._plants: dict[int, list[TimedRecord]] = {}  # by timer
        self._held: dict[bytes, bytes] = {}
        self._unalterable: dict[bytes, bytes] = {}  # shown last, and set right since
        self._found_otherwise: set[bytes] = set()  # of `_held`, as the kernel shows it
        self._former: dict[bytes, bytes] | None = None
        self._former_until = math.inf
        self._claim = 0  # the highest of the peers
        self._elders: dict[str, tuple[int, bool]] = {}  # name -> epoch, elder?
        self._gleaning: Iterator[bytes] = iter(())
        self._gleaned_at = 0.0
        self.adopting: dict[bytes, bytes] = {}  # planted, and about to become own

    @property
    def waiting(self) -> int:
        """Changes of the peers' tables that are not in the kernel yet."""
        return (
            len(self._touched)
            + len(self._sorting)
            + len(self._looks)
            + len(self._deletes)
            + sum(map(len, self._plants.values()))
        )

    @property
    def idle(self) -> bool:
        """Is there nothing to be done now?"""
        return not (
            self._touched or self._sorting or self._looks or self._deletes
        ) and not (self._plants or self._advances)

    # What there is to be done

    def look(self, now: float) -> None:
        """Once a beat: find what is due. The kernel was read once before."""
        for peer in self._peers.values():
            self._follow(peer)
        self._note_former(now)
        if self._own.uprooted:
            uprooted = list(map(self.register.name, self._own.take_uprooted()))
            self._touched.update(uprooted)
            self._looks.extend(uprooted)
        self._looks.extend(self.register.due(now))
        self._touched.update(self.refused.due(self.room, now))
        self._glean(now)

    def retry_all(self) -> None:
        """Try once more what was refused, at once."""
        self._touched.update(self.refused.all())

    def audit(self, keys: Iterable[bytes]) -> None:
        """These copies are to be looked at, whether they are due or not."""
        self._looks.extend(keys)

    def next_step(self, now: float) -> Step | None:
        """The next batch; None if there is nothing to be done."""
        if self._touched and not (self._sorting or self._looks or self._plants):
            self._sorting.extend(self._touched)
            self._touched.clear()
            self.rounds += 1
        self._sort(now)
        if self._looks:
            count = min(len(self._looks), BATCH_MESSAGES)
            return Step(Task.LOOK, [self._looks.popleft() for _ in range(count)])
        if self._deletes:
            keys, self._deletes = self._deletes, []
            return Step(Task.DELETE, keys)
        if self._advances:
            messages, self._advances = self._advances, []
            return Step(Task.ADVANCE, messages=messages)
        if self._plants:
            return Step(Task.PLANT, plan=self._plan())
        return None

    def _plan(self) -> PlantingPlan:
        # Masters go before related flows and expectations, which have short timers.
        timer_s = max(self._plants)
        records = self._plants[timer_s][:BATCH_MESSAGES]
        del self._plants[timer_s][:BATCH_MESSAGES]
        if not self._plants[timer_s]:
            del self._plants[timer_s]
        kind = timer_s, self.masks
        tools = self._tools.setdefault(kind, Tools(*kind))
        return PlantingPlan(records, self._held, self._own.flows.bodies, tools)

    def _sort(self, now: float) -> None:
        """What the next touched keys ask for."""
        own, planted = self._own, self.register.get
        for _ in range(min(len(self._sorting), BATCH_MESSAGES)):
            key = self._sorting.popleft()
            table = own.expectations if key[6] == EXPECTATION else own.flows
            told = self._told(key)
            if key in table.bodies or key in self.adopting:
                if told is not None:
                    self._both(key, told, now)
                continue
            held = planted(key)
            if told is None:
                self.refused.forget(key)
                if held is not None:
                    self._ended.add(key)
                    self._looks.append(key)
            elif held is None:
                if self._until(key, told) > now and self.wants(key, told[1]):
                    self._plant(key, told[1], now)
            elif held != told[1]:
                if _is_another(key, held, told[1]):
                    self._deletes.append(key)
                    self._touched.add(key)
                else:
                    self._held[key] = held
                    self._plant(key, told[1], now)

    def _plant(self, key: bytes, body: bytes, now: float) -> None:
        if self.room is not None and key not in self._held:
            if self.room <= 0:
                self.counts.refused += 1
                self.refused.add(key, TABLE_FULL, now)
                return
            self.room -= 1
        timer_s = self.register.timer_s(key, body)
        self._plants.setdefault(timer_s, []).append((key, body, 0.0))

    def _both(self, key: bytes, told: Told, now: float) -> None:
        """A peer tells what is own: a copy after all, or seen from both sides."""
        flows, (peer, body, _) = self._own.flows, told
        ours = flows.bodies.get(key)
        if ours is None or key in self.adopting:
            return
        if self._is_copy(key, ours, told):
            flows.disown(key)
            self._own.plant([(key, ours)])
            self._held[key] = ours
            self.counts.returned += 1
            self._plant(key, body, now)
        elif key in flows.held:
            self.refused.retry(key, int(now) + FIRST_RETRY_S)
        elif further := advance(ours, body, closing=peer.state is PeerState.IN_STEP):
            number = len(self._advances) + 1
            self._advances.append(bring(key, further, number, ours))
            self._own.lookups[key] = None
            self.counts.advanced += 1

    def _is_copy(self, key: bytes, ours: bytes, told: Told) -> bool:
        """Is it left over from before, and belongs to who tells it now?"""
        peer, body, _ = told
        if not self._former or self._former.get(key) is not ours:
            return False
        if self._roles.role == PRIMARY or ours[: ours[0]] != body[: ours[0]]:
            return False
        if peer.claim != self._roles.claim:
            return peer.claim > self._roles.claim
        return self._elders.get(peer.name, (0, False))[1]

    def _told(self, key: bytes) -> Told | None:
        """Of several peers the one whose word counts (docs/adr/0011)."""
        best: Told | None = None
        for peer in self._peers.values():
            table = peer.expectations if key[6] == EXPECTATION else peer.flows
            body = table.bodies.get(key)
            if body is not None:
                told = peer, body, table.told_s[key]
                if best is None or _counts_more(told, best):
                    best = told
        return best

    def again(self, step: Step) -> None:
        """The step could not be carried out."""
        if step.task is Task.DELETE:
            self._ended.update(step.keys)
            self._looks.extend(step.keys)
        if step.task is Task.LOOK:
            self._looks.extend(step.keys)
        if step.plan is not None:
            self._touched.update([record[0] for record in step.plan.records])

    # What the kernel said

    def looked(
        self, keys: Sequence[bytes], replies: Sequence[bytes | None], now: float
    ) -> None:
        """The kernel's entries of copies that are due, or that a peer has ended."""
        register = self.register
        for key, reply in zip(keys, replies, strict=True):
            body = register.get(key)
            if body is None:
                continue
            told = self._told(key)
            try:
                record = None if reply is None else self._reader.read_one(reply)
            except RecordError:
                record = None
            if record is None:
                register.forget(key)
                if told is not None:
                    self.counts.replanted += 1
                    self._touched.add(key)
            elif (
                record[1][: len(key)] != key[: len(record[1])]
                or register.lives(key, record[2], now)
                or not (key[6] == EXPECTATION or restore.same_tuples(body, record[2]))
            ):
                self.counts.alive += 1
                register.forget(key)
                self._own.apply([record], now)
            elif told is not None:
                if now + register.timer_s(key, told[1]) <= self._until(key, told):
                    self._repair(key, told[1], record[2])
                else:
                    register.postpone(key)
            elif any(key in peer.departed.bodies for peer in self._peers.values()):
                self.refused.retry(key, int(now) + _AWAITED_S)
            elif key in self._ended:
                self._deletes.append(key)
            else:  # the peer's table was flushed: its timer ends it
                register.postpone(key)
            self._ended.discard(key)

    def deleted(self, keys: Sequence[bytes]) -> None:
        """These are not in the kernel any more."""
        touched = self._own.flows.touched
        for key in keys:
            self.register.forget(key)
            self._unalterable.pop(key, None)
        if touched is not None:  # what a dump has shown of them is old
            touched.update(keys)
        self.counts.deleted += len(keys)

    def planted(self, plan: PlantingPlan, now: float) -> None:
        """The plan was carried out."""
        counts, result, refused = self.counts, plan.result, plan.refused
        done = [record[:2] for record in plan.records if record[0] not in refused]
        self.register.note(done, plan.timer_s, now)
        counts.created += result.created
        counts.updated += result.updated
        counts.refreshed += result.unchanged
        for key, _, _ in plan.records:
            if key in self._found_otherwise:
                self._found_otherwise.discard(key)
                counts.repaired += key not in refused
            self._held.pop(key, None)
        if self.refused.reasons:
            for key, _ in done:
                self.refused.forget(key)
        for key, reason in refused.items():
            self.refused.add(key, reason, now)
        counts.refused += len(refused)

    def _repair(self, key: bytes, body: bytes, held: bytes) -> None:
        """Set the timer again, and whatever else is not as it was told."""
        masked = (self.masks.body(key, body), self.masks.body(key, held))
        if key[6] != EXPECTATION and not same_copy(*masked):
            shown = without_timeout(held)
            if self._unalterable.get(key) != shown:  # the kernel takes no more of it
                self._found_otherwise.add(key)
                self._unalterable[key] = shown
        self._held[key] = held
        self._plants.setdefault(self.register.timer_s(key, body), []).append(
            (key, body, 0.0)
        )

    def _until(self, key: bytes, told: Told) -> float:
        """Until when there is to be a copy: of a lost peer, up to the estimate."""
        peer, body, told_s = told
        if peer.live:
            return math.inf
        before_s = max(peer.heard_at - told_s, 0.0)
        return peer.heard_at + restore.estimate_s(key, body, before_s)

    # Who the peers are, and what was own before

    def _follow(self, peer: Peer) -> None:
        """From now on the tables of this peer say what is touched."""
        known = self._elders.get(peer.name)
        if peer.inbox.epoch and (known is None or known[0] != peer.inbox.epoch):
            elder = known is None and (
                peer.inbox.highest >= ELDER_FRAMES or peer.name < self._node
            )
            self._elders[peer.name] = (peer.inbox.epoch, elder)
        if peer.flows.touched is not self._touched:
            peer.flows.touched = peer.expectations.touched = self._touched
            self._touched.update(peer.flows.bodies, peer.expectations.bodies)

    def _note_former(self, now: float) -> None:
        """What was own at the start, or before somebody took over."""
        claim = max([peer.claim for peer in self._peers.values()], default=0)
        overtaken = claim > max(self._claim, self._roles.claim)
        self._claim = max(claim, self._claim)
        if self._former is None or (overtaken and not self._former):
            self._former = dict(self._own.flows.bodies)
            self._former_until = now + FORMER_S
            self._gleaned_at = now  # they are looked through at once
        elif self._former and now >= self._former_until:
            self._former = {}

    def _glean(self, now: float) -> None:
        """Now and then go through what the peers tell: nothing may be missing here."""
        if now < self._gleaned_at:
            return
        own, adopting, register = self._own, self.adopting, self.register
        former, count = self._former or {}, 0
        for key in islice(self._gleaning, _GLEANED_AT_ONCE):
            count += 1
            if register.get(key) is not None:
                if register.ended(key, now - SHORT_S):
                    self._looks.append(key)  # it was lost sight of
            elif key in adopting or key in self.refused:
                continue
            elif key in own.flows.bodies:
                if former.get(key) is own.flows.bodies[key]:
                    self._touched.add(key)
            elif key not in own.expectations.bodies:
                self._touched.add(key)
        if count:
            self._gleaned_at = now + _GLEAN_INTERVAL_S
        else:
            self._gleaning = self._all_told()
            self._gleaned_at = now + register.long_s / 4

    def _all_told(self) -> Iterator[bytes]:
        for peer in tuple(self._peers.values()):
            for table in (peer.flows, peer.expectations):
                yield from tuple(table.bodies)

    # A promotion

    def age_s(self, key: bytes, now: float) -> float:
        """How long ago its present state was told; 0 if nobody tells it any more."""
        told = self._told(key)
        return 0.0 if told is None else max(now - told[2], 0.0)

    def take(self, peers: Sequence[Peer]) -> dict[bytes, bytes]:
        """The copies of what these peers tell are ours from now on; key -> body."""
        others = [
            peer
            for peer in self._peers.values()
            if peer not in peers and (len(peer.flows) or len(peer.expectations))
        ]
        if not others:
            self.adopting = self.register.clear()
            return self.adopting
        taken = {}
        for plain, body in self._own.planted.items():
            key = self.register.name(plain)
            told = self._told(key)
            if told is not None and told[0] in peers:
                taken[key] = body
        for key in taken:
            self.register.forget(key)
        self.adopting = taken
        return taken


def _anything(_key: bytes, _body: bytes) -> bool:
    return True


def _is_another(key: bytes, held: bytes, told: bytes) -> bool:
    """Does the peer tell of a new flow with the same original tuple?

    A reply tuple never changes, and of STATUS no bit is ever taken back.
    """
    if key[6] == EXPECTATION:
        return False
    if held[: held[0]] != told[: told[0]]:
        return True
    was, is_now = status_of(held), status_of(told)
    bits = restore.KEPT_BITS | restore.NAT_BITS
    return bool(was & ~is_now & bits or (was ^ is_now) & restore.NAT_BITS)


def _counts_more(one: Told, other: Told) -> bool:
    """The higher claim, then the newer state, then the name."""
    if one[0].claim != other[0].claim:
        return one[0].claim > other[0].claim
    if one[2] == other[2] and one[1] == other[1]:
        return one[0].name < other[0].name
    return is_newer((one[2], one[1]), (other[2], other[1]))
