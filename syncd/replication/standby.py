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

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from syncd.flows import restore
from syncd.flows.closing import Closing
from syncd.flows.commit import BATCH_MESSAGES, IN_THE_WAY, TABLE_FULL
from syncd.flows.forward import ESTABLISHED, LAST_ACK, tcp_state
from syncd.flows.likeness import same_reply
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.own import Own
from syncd.flows.planted import SHORT_S, Planted
from syncd.flows.planting import Bed, PlantingPlan, Tools, is_another, same_copy, shown
from syncd.flows.reader import RecordReader
from syncd.flows.record import EXPECTATION, Record, status_of, without_timeout
from syncd.flows.triage import triage
from syncd.replication.endings import LEFT_S, Endings
from syncd.replication.findings import Findings
from syncd.replication.former import Former
from syncd.replication.forwarding import Forwarding
from syncd.replication.gleaning import Gleaning
from syncd.replication.lag import BEHIND_S, Lag
from syncd.replication.peer import Peer
from syncd.replication.refused import FIRST_RETRY_S, Refused
from syncd.replication.roles import PRIMARY, Roles
from syncd.replication.steps import Step, Task, WarmCounts
from syncd.replication.told import Told, holds_until, told_among, told_of

_IN_HAND_LIMIT = 8192  # of changes that wait, to say what is missing beside them
_SURE_S = 1.0  # so long a batch may take; else the daemon was stopped meanwhile
_AWAITED_S = 5  # between two looks at what a restarted primary may have lost


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
        self.counts = WarmCounts()
        self.refused = Refused()
        self.rounds = 0  # when one begins, all that was touched before is through
        self.room: int | None = None  # entries that the kernel's table has room for
        self.register = Planted(own, long_s)
        self.wants: Callable[[bytes, bytes], bool] = _anything  # the filter's word
        self.take_own: Callable[[list[Record], float], None] = own.apply
        self._own = own
        own.flows.left, own.expectations.left = [], []
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
        self.forwarding = Forwarding(own, self._told, roles, self.counts)
        self._beds: dict[tuple[int, int], Bed] = {}  # by rank and timer
        self._closing = Closing()
        self._now = 0.0  # when the step began
        self._unalterable: dict[bytes, bytes] = {}  # shown last, and set right since
        self._found_otherwise: set[bytes] = set()  # in a bed, as the kernel shows it
        self._former = Former(node, own, peers, roles)
        self.left_alone = self._former.left_alone
        self.endings = Endings(peers)
        self._gleaning = Gleaning(own, peers, self.register, self.refused, roles)
        self._lag = Lag()
        self.findings = Findings()
        self.adopting: dict[bytes, bytes] = {}  # planted, and about to become own
        self.ended_early: list[bytes] = []  # of these, by their peer

    @property
    def waiting(self) -> int:
        """Changes of the peers' tables that are not in the kernel yet."""
        waiting = len(self._touched) + len(self._sorting) + len(self._looks)
        return waiting + len(self._deletes) + sum(map(len, self._beds.values()))

    @property
    def idle(self) -> bool:
        """Is there nothing to be done now?"""
        return not (self.waiting or self._beds or self.forwarding)

    # What there is to be done

    def look(self, now: float) -> None:
        """Once a beat: find what is due. The kernel was read once before."""
        for peer in self._peers.values():
            self._follow(peer)
        if self._former.look(now):
            self._gleaning.at = now  # they are looked through at once
        self._touched.update(self._closing.due(now))
        self._touched.update(self.forwarding.look(self._peers.values(), now))
        met, self._own.met = set(map(self.register.name, self._own.met)), []
        for key in met:  # put there at once it would drive out the next one
            self.register.forget(key)
            self.refused.retry(key, int(now) + LEFT_S)
        uprooted = list(map(self.register.name, self._own.take_uprooted()))
        uprooted = [key for key in uprooted if key not in met]
        self._take((uprooted, uprooted))
        self._looks.extend(self.register.due(now))
        self._touched.update(self.endings.look(self._own.take_left(), now))
        self._touched.update(self.refused.due(self.room, now))
        self._take(self._gleaning.look(self._former.bodies, self.adopting, now))
        self._lag.look(self.rounds, idle=self.idle, now=now)

    def lacking(self, now: float) -> str:
        """What this kernel should hold by now and does not, or nothing."""
        if crowded := self.refused.crowded:
            return f"this kernel's table has no room for {crowded} copies"
        if not self.idle and self._lag.seconds(now) >= BEHIND_S:
            return f"{self.waiting} changes of peers are not in this kernel yet"
        if not self._lag.known and any(len(p.flows) for p in self._peers.values()):
            return "what peers tell is not in this kernel yet"
        return ""

    def audit(self, keys: Iterable[bytes]) -> None:
        """These copies are to be looked at, whether they are due or not."""
        self._looks.extend(keys)

    def told(self) -> Iterator[bytes]:
        """The keys of all that peers tell."""
        return self._gleaning.all_told()

    def miss(self, keys: Collection[bytes], now: float) -> None:
        """Of these keys that peers tell, plant those that were lost sight of."""
        if self.waiting > _IN_HAND_LIMIT:
            return  # nobody can tell
        hand = {*self._touched, *self._sorting}
        for bed in self._beds.values():
            hand.update(record[0] for record in bed.fresh)
        for key in self._gleaning.missing(keys, hand, self.wants, now):
            self.findings.note(key)
            self._touched.add(key)

    def next_step(self, now: float) -> Step | None:
        """The next batch; None if there is nothing to be done."""
        self._now = now
        if not (self._sorting or self._looks or self._beds) and self._touched:
            self._sorting.extend(self._touched)
            self._touched.clear()
            self.rounds += 1
        if any(len(bed) >= BATCH_MESSAGES for bed in self._beds.values()):
            return self._plan()
        self._sort(now)
        if self._looks:
            count = min(len(self._looks), BATCH_MESSAGES)
            return Step(Task.LOOK, [self._looks.popleft() for _ in range(count)])
        if self._deletes:
            keys, self._deletes = self._deletes, []
            return Step(Task.DELETE, keys)
        if self.forwarding:
            return self.forwarding.step(self.masks)
        return self._plan() if self._beds else None

    def _plan(self) -> Step:
        """Masters go before related flows, and those before expectations."""
        place = min(self._beds)
        kind = place[1], self.masks
        tools = self._tools.get(kind)
        if tools is None:
            tools = self._tools[kind] = Tools(*kind)
        own, bed = self._own, self._beds.pop(place)
        bed.leave_out(own, self.masks)
        plan = PlantingPlan(bed, own, self._is_copy, self._told, tools)
        return Step(Task.PLANT, plan=plan)

    def _is_copy(self, key: bytes, held: bytes) -> bool:
        return self.register.ours(key, held, self._now)

    def _sort(self, now: float) -> None:
        """What the next touched keys ask for."""
        count = min(len(self._sorting), BATCH_MESSAGES)
        keys = [self._sorting.popleft() for _ in range(count)]
        sole = self._sole_teller()
        if sole is not None:
            keys = self._sort_out(keys, sole, now)
        is_own, held_of, told_of = self._own.has, self.register.get, self._told
        adopting = self.adopting
        for key in keys:
            told = told_of(key)
            if key in adopting or is_own(key):
                if self.refused.reasons:
                    self.refused.forget(key)
                if told is not None:
                    self._both(key, told, now)
                elif key in adopting:
                    self.ended_early.append(key)
                continue
            held = held_of(key)
            if told is None:
                self._end(key, held)
            elif held is None:
                if self._gleaning.holds(key, told, now) and self.wants(key, told[1]):
                    self._create(key, told[1], now)
            elif held != told[1]:
                self._change(key, held, told[1], now)

    def _sole_teller(self) -> Peer | None:
        """The live peer that alone has told anything, while there is room for all."""
        tellers = [peer for peer in self._peers.values() if peer.flows.bodies]
        if len(tellers) != 1 or not tellers[0].live or self.adopting:
            return None
        crowded = self.room is not None and self.room < BATCH_MESSAGES
        return None if crowded else tellers[0]

    def _sort_out(self, keys: list[bytes], sole: Peer, now: float) -> list[bytes]:
        """Put what is simple into the beds; the other keys."""
        register, own = self.register, self._own
        found = triage(
            *(keys, sole.flows.bodies, own.planted, own.flows.bodies),
            *(self._closing, register.long_s, now),
        )
        for fresh, changed, timer_s in (
            (found.fresh_short, found.changed_short, min(SHORT_S, register.long_s)),
            (found.fresh_long, found.changed_long, register.long_s),
        ):
            if fresh and self.wants is not _anything:
                fresh = [record for record in fresh if self.wants(*record[:2])]
            if fresh or changed:
                bed = self._beds.get((0, timer_s)) or Bed()
                self._beds[0, timer_s] = bed
                bed.fresh += fresh
                bed.differing += changed
                if self.room is not None:
                    self.room -= len(fresh)
        if self.refused.reasons:
            for key in found.deletes + found.ended:
                self.refused.forget(key)
        self._deletes += found.deletes
        self._ended.update(found.ended)
        self._looks += found.ended
        return found.rest

    def _end(self, key: bytes, held: bytes | None) -> None:
        """No peer tells it any more."""
        if self.refused.reasons:
            self.refused.forget(key)
        state = self._closing.end(key)
        if held is None:
            if key[6] == EXPECTATION:  # it may be left from when it was own
                self._deletes.append(key)
            return
        if max(state, tcp_state(held)) >= LAST_ACK:
            self._deletes.append(key)  # its last packets were seen by the peer
        else:
            self._ended.add(key)
            self._looks.append(key)

    def _change(self, key: bytes, held: bytes, body: bytes, now: float) -> None:
        """A copy is to be brought up to date; what only closes may wait for its end."""
        state = tcp_state(body)
        if state > ESTABLISHED and tcp_state(held) >= ESTABLISHED:
            if self._closing.wait(key, state, now):
                return
            self._closing.end(key)
        if is_another(key, held, body):
            self._deletes.append(key)  # and anew, see `deleted`
        elif key[6] == EXPECTATION:
            self._bed(key, body).fresh.append((key, body, 0.0))
        else:
            self._bed(key, body).differing.append(((key, body, 0.0), held))

    def hurry(self) -> None:
        """Let nothing wait; try once more what was refused."""
        self._touched.update(self.endings.hurry(self._own.take_left()))
        self._touched.update(self.refused.all())
        self._touched.update(self._closing.hurry())
        self._take(self._gleaning.hurry(self._former.bodies, self.adopting, self._now))

    def _take(self, found: tuple[list[bytes], list[bytes]]) -> None:
        """These keys are to be touched, those to be looked at."""
        self._touched.update(found[0])
        self._looks.extend(found[1])

    def _create(self, key: bytes, body: bytes, now: float) -> None:
        if self.room is not None:
            if self.room <= 0:
                self.counts.refused += 1
                self.refused.add(key, TABLE_FULL, now)
                return
            self.room -= 1
        self._bed(key, body).fresh.append((key, body, 0.0))

    def _bed(self, key: bytes, body: bytes) -> Bed:
        """Where it belongs."""
        rank = 2 if key[6] == EXPECTATION else status_of(body) & restore.EXPECTED
        place = rank, self.register.timer_s(key, body)
        bed = self._beds.get(place)
        if bed is None:
            bed = self._beds[place] = Bed()
        return bed

    def _both(self, key: bytes, told: Told, now: float) -> None:
        """A peer tells what is own: a copy after all, or seen from both sides."""
        flows, (peer, body) = self._own.flows, told
        ours = flows.bodies.get(key)
        if ours is None or key in self.adopting:
            return
        if self._former.is_copy(key, ours, peer, body):
            flows.disown(key)
            self._own.plant([(key, ours)])
            self.counts.returned += 1
            if is_another(key, ours, body):
                self._deletes.append(key)  # and anew, see `deleted`
                return
            bed = self._bed(key, body)
            bed.known.append((key, body, 0.0))
            bed.held.append(ours)
        elif key in flows.held:
            self.refused.retry(key, int(now) + FIRST_RETRY_S)
        elif self._roles.role != PRIMARY or peer.role == PRIMARY:
            self.forwarding.note(key, ours, told, self.masks, now)

    def _told(self, key: bytes) -> Told | None:
        return told_of(self._peers.values(), key)

    def again(self, step: Step, now: float) -> None:
        """The step could not be carried out."""
        self._own.sown.clear()
        if step.task in (Task.DELETE, Task.LOOK):
            self._ended.update(step.keys if step.task is Task.DELETE else ())
            self._looks.extend(step.keys)
        if step.task is Task.ADVANCE:
            self.advanced(step.keys)  # some of them, maybe
            self._touched.update(step.keys)
        if step.plan is not None:
            records, get, has = step.plan.records, self.register.get, self._own.has
            fresh = [r[:2] for r in records if not (get(r[0]) or has(r[0]))]
            self.register.note(fresh, step.plan.timer_s, now)  # some are there, maybe
            self._touched.update(record[0] for record in records)
            self._looks.extend(record[0] for record in records if get(record[0]))

    # What the kernel said

    def looked(
        self,
        keys: Sequence[bytes],
        replies: Sequence[bytes | None],
        now: float,
        took_s: float = 0.0,
    ) -> None:
        """The kernel's entries of copies that are due, or that a peer has ended."""
        register = self.register
        for key, record in zip(keys, shown(self._reader, replies), strict=True):
            body = register.get(key)
            if body is None or key in self._own.uprooted:  # an event came since
                continue
            told = self._told(key)
            if record is None:
                register.forget(key)
                if told is not None:
                    self.counts.replanted += 1
                    self.findings.note(key)
                    self._touched.add(key)
            elif (
                record[1][: len(key)] != key[: len(record[1])]
                or register.lives(key, record[2], now, took_s)
                or (key[6] != EXPECTATION and not same_reply(body, record[2]))
            ):
                self.counts.alive += 1
                register.forget(key)
                self.take_own([record], now)
            elif told is not None:
                if is_another(key, body, told[1]):  # the peer has begun it anew
                    self._deletes.append(key)  # and anew, see `deleted`
                elif now + register.timer_s(key, told[1]) <= holds_until(key, told):
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
        self.register.deleted(keys)
        if self._unalterable:
            for key in keys:
                self._unalterable.pop(key, None)
        # Another flow with that tuple, or the same again: it is told, so it is planted.
        self._touched.update(told_among(self._peers.values(), keys))
        self.counts.deleted += len(keys)

    def displaced(self, replies: Iterable[bytes], now: float) -> None:
        """Whatever had these reply tuples in this kernel was deleted, copies too."""
        for key in self.register.with_tuple({reply[4:] for reply in replies}):
            self.register.forget(key)
            self.refused.add(key, IN_THE_WAY, now)

    def advanced(self, keys: Sequence[bytes]) -> None:
        """The kernel was asked to change these own flows: it says what they are now."""
        self._own.lookups.update(dict.fromkeys(keys))

    def planted(self, plan: PlantingPlan, now: float, took_s: float = 0.0) -> None:
        """The plan was carried out."""
        counts, result, refused = self.counts, plan.result, plan.refused
        self._own.sown.clear()
        own, done = self._own.flows.bodies, plan.written(self._own)
        if len(done) + len(refused) < len(plan.records):  # what did we make of these?
            self.advanced([record[0] for record in plan.records if record[0] in own])
        self.register.note(done, plan.timer_s, now)
        if took_s > _SURE_S:  # when were they written? Their timers have to be known
            for key, body in done:
                self._repair(key, body, body)
        self.findings.right(done)
        counts.created += result.created
        counts.updated += result.updated
        counts.refreshed += result.unchanged
        if self._found_otherwise:
            for key, _, _ in plan.records:
                if key in self._found_otherwise:
                    self._found_otherwise.discard(key)
                    counts.repaired += key not in refused
        if self.refused.reasons:
            for key, _ in done:
                self.refused.forget(key)
        for key, reason in refused.items():
            self.refused.add(key, reason, now)
        self._own.lookups |= dict.fromkeys(plan.strangers)
        for key in plan.replaced:
            self.register.forget(key)
        counts.refused += len(refused)

    def _repair(self, key: bytes, body: bytes, held: bytes) -> None:
        """Set the timer again, and whatever else is not as it was told."""
        masked = (self.masks.body(key, body), self.masks.body(key, held))
        if key[6] != EXPECTATION and not same_copy(*masked):
            shown = without_timeout(held)
            if self._unalterable.get(key) != shown:  # the kernel takes no more of it
                self._found_otherwise.add(key)
                self.findings.note(key)
                self._unalterable[key] = shown
        bed = self._bed(key, body)
        if key[6] == EXPECTATION:
            bed.fresh.append((key, body, 0.0))
        else:
            bed.known.append((key, body, 0.0))
            bed.held.append(held)

    # What else there may be

    def _follow(self, peer: Peer) -> None:
        """From now on the tables of this peer say what is touched."""
        if peer.flows.touched is not self._touched:
            peer.flows.touched = peer.expectations.touched = self._touched
            self._touched.update(peer.flows.bodies, peer.expectations.bodies)

    # A promotion

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
