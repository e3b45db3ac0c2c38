"""What must be true at any time, checked after every step of every node.

In: nodes whose tables may have changed. Out: `Violation` at the first thing that is
wrong. The watch writes down the history of every record of every node's own table; a
copy at a peer has to walk along that history and never back: so nothing is invented,
no late frame overwrites, no ended flow returns, and no live flow vanishes.

A node that says it is ready has been told, of every peer it hears, all that is older
than `LAG_S`: the history knows since when a copy has been out of date.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from syncd.flows.own import Own
from syncd.replication.engine import ReplicationEngine
from syncd.replication.peer import Peer
from syncd.replication.settings import RELIABLE

from tests.digests import sum_of
from tests.sim.clock import Clock
from tests.sim.decode import flow_facts

if TYPE_CHECKING:
    from tests.sim.node import SimulatedNode

LAG_S = 8.0  # by which the copy of a ready node may trail what its peers know
_READY_INTERVAL_S = 0.25  # of the world's time, between two looks at a ready node
_LOST_RANGES_LIMIT = 130
_LOOKUPS_LIMIT = 1024
_THOROUGH = 16  # one in so many looks at the bounds walks all keys

Bodies = Mapping[bytes, bytes]
Table = Mapping[bytes, bytes | None]


class Violation(AssertionError):  # noqa: N818 - named for what it is
    """Something that must never be."""


class History:
    """All states of one kind of records of one node, over all lives of its daemon."""

    __slots__ = ("_clock", "_last", "_shown", "states", "times")

    def __init__(self, clock: Clock) -> None:
        self.states: dict[bytes, list[bytes | None]] = {}
        self.times: dict[bytes, list[float]] = {}  # since when each state holds
        self._clock = clock
        self._last: dict[bytes, bytes] = {}
        self._shown: set[bytes] = set()  # in this life of the daemon

    def begin_life(self) -> None:
        """The daemon has forgotten its table: that ends nothing."""
        self._shown.clear()

    def note(self, bodies: Bodies, *, whole: bool) -> list[bytes]:
        """Write down what changed; not `whole` = a dump may still show what is missing.

        Returns the keys that appeared.
        """
        last = self._last
        if bodies == last:
            if len(self._shown) < len(last):
                self._shown.update(last)
            return []
        appeared = []
        for key, body in bodies.items():
            before = last.get(key)
            self._shown.add(key)
            if before == body:
                continue
            if before is None:
                appeared.append(key)
            self._add(key, body)
            last[key] = body
        for key in last.keys() - bodies.keys():
            if whole or key in self._shown:
                self._add(key, None)
                del last[key]
        return appeared

    def _add(self, key: bytes, body: bytes | None) -> None:
        self.states.setdefault(key, [None]).append(body)
        self.times.setdefault(key, [0.0]).append(self._clock.now)

    def trailing_s(self, copy: Bodies, excused: set[bytes]) -> tuple[float, bytes]:
        """For how long that copy has been out of date, and by which key."""
        worst, where = 0.0, b""
        now, last = self._clock.now, self._last
        for key in last.keys() | copy.keys():
            body = copy.get(key)
            if body == last.get(key) or key in excused:
                continue
            states = self.states.get(key, [])
            for at in range(len(states) - 1, -1, -1):
                if states[at] == body:
                    behind = now - self.times[key][at + 1]
                    if behind > worst:
                        worst, where = behind, key
                    break
        return worst, where


class Copy:
    """One peer's copy of another node's records, and how far it has come."""

    __slots__ = ("_history", "_last", "_positions", "excused", "expiring")

    def __init__(self, history: History, *, expiring: bool) -> None:
        self.expiring = expiring  # may a flow vanish that lives?
        self.excused: set[bytes] = set()  # keys that a fault has changed in silence
        self._history = history
        self._last: dict[bytes, bytes] = {}
        self._positions: dict[bytes, int] = {}

    def note(self, bodies: Bodies) -> str:
        """Follow the copy along the history; what is wrong, or nothing."""
        last = self._last
        if bodies == last:
            return ""
        for key, body in bodies.items():
            if last.get(key) != body:
                if not self._advance(key, body):
                    if key in self.excused:
                        continue
                    return self._explain(key, body)
                last[key] = body
        for key in last.keys() - bodies.keys():
            if not self._advance(key, None):
                if key in self.excused:
                    continue
                if self.expiring:
                    del last[key]  # not told for too long; it comes again
                    continue
                return self._explain(key, None)
            del last[key]
        return ""

    def forget_all_but(self, bodies: Bodies) -> None:
        """The others come again, if they live."""
        if len(self._last) != len(bodies):
            for key in self._last.keys() - bodies.keys():
                del self._last[key]

    def _advance(self, key: bytes, body: bytes | None) -> bool:
        states = self._history.states.get(key)
        if states is None:
            return False
        try:
            at = states.index(body, self._positions.get(key, 0))
        except ValueError:
            return False
        self._positions[key] = at
        return True

    def _explain(self, key: bytes, body: bytes | None) -> str:
        states = self._history.states.get(key)
        if states is None:
            return f"key {key.hex()} is invented"
        if body is None:
            return f"key {key.hex()} vanished while it lives"
        if body not in states:
            return f"a body of key {key.hex()} is invented: {body.hex()}"
        now, old = self._positions.get(key, 0), states.index(body)
        what = "came back after its end" if None in states[old:now] else "went back"
        return f"key {key.hex()} {what}: state {old} after {now}"


class Summed:
    """Tables and the sums over them, as they were when one was right for the other."""

    __slots__ = ("_sums", "_tables")

    def __init__(self, sums: list[int], *tables: Table) -> None:
        self._sums = sums.copy()
        self._tables = tuple(dict(table) for table in tables)

    def still(self, sums: list[int], *tables: Table) -> bool:
        """Is all of it as it was? Then there is nothing to sum up again."""
        return self._sums == sums and self._tables == tables


class Watch:
    """The checks that run all the time."""

    def __init__(self, clock: Clock, *, expiring: bool = False) -> None:
        self.expiring = expiring
        self._clock = clock
        self._looks = 0
        self._ready_at: dict[str, float] = {}  # when to look at a ready node again
        self.longest_trail_s = 0.0  # of a ready node
        self._histories: dict[tuple[str, str], History] = {}
        self._copies: dict[tuple[str, str, str], Copy] = {}
        self._names: set[str] = set()
        self.most_marks = 0
        self._adopted: dict[str, set[bytes]] = {}
        self._corrupted: set[tuple[str, str]] = set()
        self._summed: dict[tuple[str, str], Summed] = {}  # by observer and owner
        self.falsified: set[bytes] = set()  # keys of records that changed in silence

    def started(self, name: str, engine: ReplicationEngine) -> None:
        """A new life of a daemon: its copies of the others are gone."""
        self._names.add(name)
        self._copies = {at: copy for at, copy in self._copies.items() if at[0] != name}
        for kind in ("flows", "expectations"):
            self._history(name, kind).begin_life()
        if engine.own.flows.bodies or engine.peers:
            raise Violation(f"{name} is born with records")

    def _history(self, name: str, kind: str) -> History:
        history = self._histories.get((name, kind))
        if history is None:
            history = self._histories[name, kind] = History(self._clock)
        return history

    def owners(self, key: bytes) -> int:
        """How many nodes ever had this flow for their own."""
        return sum(
            key in history.states
            for (_, kind), history in self._histories.items()
            if kind == "flows"
        )

    def last_states(self, key: bytes) -> list[int]:
        """Of a TCP connection, by each node that knew it: how far it was at last."""
        found = []
        for (_, kind), history in self._histories.items():
            known = [body for body in history.states.get(key, ()) if body]
            if kind == "flows" and known:
                tracker = flow_facts(key, known[-1]).tracker
                found.append(0 if tracker is None else tracker.state)
        return found

    def own(self, node: "SimulatedNode") -> None:
        """A node's own tables may have changed."""
        engine = node.running
        own, whole = engine.own, engine.kernel_read
        flows = self._history(node.name, "flows")
        for key in flows.note(own.flows.bodies, whole=whole):
            if key in own.flows.held or node.uncertain or key in self.falsified:
                continue  # its end is known and held back, or events were lost
            if key not in node.kernel.flows:
                self._must_be_on_its_way(node, key)
        expectations = self._history(node.name, "expectations")
        expectations.note(own.expectations.bodies, whole=whole)

    def _must_be_on_its_way(self, node: "SimulatedNode", key: bytes) -> None:
        """An own flow that the kernel does not have: its end has to be in the queue."""
        queue = node.kernel.queue
        tuple_ = key[: 4 + int.from_bytes(key[4:6], "little")]
        if queue.losses_unseen or any(
            event.startswith(tuple_, 16) for event in queue.waiting
        ):
            return
        raise Violation(f"{node.name} revives a flow that has ended: {key.hex()}")

    def peers(self, node: "SimulatedNode", source: str = "") -> None:
        """A node's copies may have changed: of `source`, or of all other nodes."""
        known = node.running.peers
        self._looks += 1
        if source in known and self._looks % _THOROUGH:
            self._peer(node.name, known[source])
            self.lost(node)
            return
        for peer in known.values():
            if peer.name not in self._names or peer.name == node.name:
                raise Violation(f"{node.name} has a peer {peer.name!r}")
            self._peer(node.name, peer)

    def lost(self, node: "SimulatedNode") -> None:
        """What has ended elsewhere leaves the tables of lost peers, and comes again."""
        for peer in node.running.peers.values():
            if not peer.live:
                for kind, table in (
                    ("flows", peer.flows),
                    ("expectations", peer.expectations),
                ):
                    copy = self._copies.get((node.name, peer.name, kind))
                    if copy is not None:
                        copy.forget_all_but(table.bodies)

    def _peer(self, observer: str, peer: Peer) -> None:
        self._copy(observer, peer, "flows", peer.flows.bodies)
        self._copy(observer, peer, "expectations", peer.expectations.bodies)

    def ready(self, node: "SimulatedNode") -> None:
        """A node that could take over now holds what its peers have told."""
        now = self._clock.now
        if now < self._ready_at.get(node.name, 0.0) or not node.running.ready:
            return
        if node.settings.mode != RELIABLE or node.running.readiness.overdue:
            return  # no such promise, or it has been waiting for too long
        self._ready_at[node.name] = now + _READY_INTERVAL_S
        for peer in node.running.peers.values():
            if not peer.live or peer.name not in self._names:
                continue
            for kind, bodies in (
                ("flows", peer.flows.bodies),
                ("expectations", peer.expectations.bodies),
            ):
                copy = self._copies.get((node.name, peer.name, kind))
                excused = copy.excused if copy is not None else set[bytes]()
                history = self._history(peer.name, kind)
                trail_s, key = history.trailing_s(bodies, excused)
                self.longest_trail_s = max(self.longest_trail_s, trail_s)
                if trail_s > LAG_S:
                    raise Violation(
                        f"{node.name} is ready, and for {trail_s:.1f} s has missed "
                        f"what {peer.name} knows of {key.hex()}"
                    )

    def _copy(self, observer: str, peer: Peer, kind: str, bodies: Bodies) -> None:
        at = (observer, peer.name, kind)
        copy = self._copies.get(at)
        if copy is None:
            copy = self._copies[at] = Copy(
                self._history(peer.name, kind), expiring=self.expiring
            )
        wrong = copy.note(bodies)
        if wrong:
            raise Violation(f"{observer}'s {kind} of {peer.name}: {wrong}")

    def adopted(self, name: str, keys: Iterable[bytes]) -> None:
        """A commit: peers are told of these, also if they have ended meanwhile."""
        self._adopted.setdefault(name, set()).update(keys)

    def was_adopted(self, name: str, key: bytes) -> bool:
        """Did a commit of that node, in whatever life, put it there?"""
        return key in self._adopted.get(name, ())

    def _ever(self, name: str, kind: str) -> int:
        """So many keys of that kind may wait to be told."""
        adopted = self._adopted.get(name, ()) if kind == "flows" else ()
        return len(self._history(name, kind).states) + len(adopted)

    def excuse(self, observer: str, of: str, kind: str, key: bytes) -> None:
        """This record of a copy is about to change in silence."""
        self._copies[observer, of, kind].excused.add(key)
        self.falsified.add(key)
        self._corrupted.add((observer, of))

    def bounds(self, node: "SimulatedNode") -> None:
        """Nothing grows without a limit."""
        engine = node.running
        unacked = len(engine.outbox.unacked)
        beyond = 1 if node.settings.mode == RELIABLE else 32  # parts of one step
        if unacked > node.settings.window_frames + beyond:
            raise Violation(f"{node.name} has {unacked} unacknowledged frames")
        if len(engine.own.lookups) > _LOOKUPS_LIMIT:
            raise Violation(f"{node.name} wants {len(engine.own.lookups)} lookups")
        own = engine.own
        if len(own.flows.marks) > self.most_marks:
            self._marked(node.name, "flows", len(own.flows.marks))
        if len(own.expectations.marks) > self.most_marks:
            self._marked(node.name, "expectations", len(own.expectations.marks))
        self._looks += 1
        if self._looks % _THOROUGH == 0:
            self.thorough(node)

    def _marked(self, name: str, kind: str, marks: int) -> None:
        """More keys wait to be told than ever before."""
        self.most_marks = marks
        if marks > self._ever(name, kind):
            raise Violation(f"{name} has {marks} marks on {kind}")

    def thorough(self, node: "SimulatedNode") -> None:
        """The bounds that take a walk over all keys."""
        engine = node.running
        for table, kind in (
            (engine.own.flows, "flows"),
            (engine.own.expectations, "expectations"),
        ):
            if len(table.marks) > self._ever(node.name, kind):
                raise Violation(f"{node.name} has {len(table.marks)} marks on {kind}")
            if table.facts.keys() != table.bodies.keys():
                raise Violation(f"{node.name}: facts and bodies of {kind} differ")
            if not table.held.keys() <= table.bodies.keys():
                raise Violation(f"{node.name} holds back ends of unknown {kind}")
        if not node.old:
            self._digests(node.name, engine)
        for peer in engine.peers.values():
            if len(peer.inbox.lost) > _LOST_RANGES_LIMIT:
                raise Violation(f"{node.name} remembers {len(peer.inbox.lost)} gaps")
            kept = peer.departed.bodies.keys() - self.falsified
            if len(kept) > self._ever(peer.name, "flows"):
                raise Violation(f"{node.name} keeps more than {peer.name} ever had")
            for copy in (peer.flows, peer.expectations):
                limit = node.settings.peer_flows_limit
                corrupted = (node.name, peer.name) in self._corrupted  # one is added
                if len(copy) > limit and not corrupted:
                    raise Violation(f"{node.name} keeps {len(copy)} of {peer.name}")
                if copy.told_s.keys() != copy.bodies.keys():
                    raise Violation(
                        f"{node.name}: times of {peer.name}'s records differ"
                    )
                if not copy.stale <= copy.bodies.keys():
                    raise Violation(f"{node.name}: stale keys of {peer.name} unknown")

    def _digests(self, name: str, engine: ReplicationEngine) -> None:
        """What is summed up with each change is what is there."""
        own, told = engine.own, engine.outbox.told
        tables: tuple[Table, ...] = (
            *(own.flows.bodies, own.flows.marks),
            *(own.expectations.bodies, own.expectations.marks),
        )
        summed = self._summed.get((name, name))
        if summed is None or not summed.still(told.sums, *tables):
            if _told_sum(own) != told.values:
                raise Violation(f"{name}: the digest is not over what was told")
            self._summed[name, name] = Summed(told.sums, *tables)
        for peer in engine.peers.values():
            if (name, peer.name) in self._corrupted:
                continue  # that it is wrong is what will be found
            flows, expectations = peer.flows.bodies, peer.expectations.bodies
            summed = self._summed.get((name, peer.name))
            if summed is not None and summed.still(peer.held.sums, flows, expectations):
                continue
            if sum_of(chain(flows.items(), expectations.items())) != peer.held.values:
                raise Violation(f"{name}: the digest of {peer.name}'s tables is wrong")
            self._summed[name, peer.name] = Summed(peer.held.sums, flows, expectations)


def _told_sum(own: Own) -> list[int]:
    """Over what was told last of all that was ever told and has not ended."""
    records = [
        (key, table.told(key))
        for table in (own.flows, own.expectations)
        for key in table.bodies.keys() | table.marks.keys()
    ]
    return sum_of(record for record in records if record[1])


def standing(node: "SimulatedNode") -> list[tuple[object, ...]]:
    """What no false frame may change."""
    engine = node.running
    return [
        (
            *(peer.name, peer.state, peer.inbox.epoch, peer.inbox.highest),
            *(peer.claim, peer.role, peer.heard_at, len(peer.flows.bodies)),
            *(
                () if node.old else tuple(peer.candidates),
                engine.roles.claim,
                engine.roles.role,
            ),
        )
        for peer in engine.peers.values()
    ]
