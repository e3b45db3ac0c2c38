"""How nodes agree: what HELLO and DATA frames of peers say, and what follows from it.

In: frames of peers, taken apart. Out: the peers' tables and states, resyncs that are
wanted; what is to be said about it says `Speaker`. The rule of the room: whatever a
peer says is checked against what it can know; a frame of a life or service that is
over changes nothing.
"""

import sys
from collections.abc import Sequence

from syncd.flows.masquerade import dies_with_address
from syncd.flows.table import Table
from syncd.replication.frame import Data, Frame
from syncd.replication.hello import Ack, Hello
from syncd.replication.inbox import SATISFIED
from syncd.replication.peer import Peer, PeerEvent, PeerState
from syncd.replication.roles import BACKUP, PRIMARY, introduce
from syncd.replication.settings import RELIABLE
from syncd.replication.speaker import Speaker
from syncd.replication.told import told_among

_CANDIDATES_LIMIT = 8  # lives of one peer that have not proved themselves
_ANSWER_S = 0.05  # at least, between two HELLOs that unproven lives cause
_ROOM_SHARE = 0.95  # of a table's limit: what is below it fits
_DEPARTED_S = 30.0  # in which somebody should take over from a restarted primary
_ENDED_LIMIT = 1 << 18  # keys that wait for their deletion from this kernel


class Agreement(Speaker):
    """One node's view of all the others: what it hears, and what follows."""

    def receive(self, frame: Frame, source: str, now: float) -> str | None:
        """Take one frame; the reason for which it was refused, or None."""
        if frame.sender == self.node:
            return self._own_name(frame, source, now)
        if isinstance(frame.content, Hello):
            return self._receive_hello(frame, frame.content, source, now)
        if isinstance(frame.content, Data):
            self._receive_data(frame, frame.content, now)
        else:
            self._receive_unknown(frame, now)
        return None

    def goes_on(self, frame: Frame) -> bool:
        """Was this frame made after its sender had proved that it goes on?

        A frame that somebody recorded before is genuine as well, and tells nothing.
        """
        peer = self.peers.get(frame.sender)
        return (
            peer is not None
            and peer.inbox.epoch == frame.epoch
            and frame.number >= peer.inbox.first
        )

    def _own_name(self, frame: Frame, source: str, now: float) -> str | None:
        if frame.epoch == self.epoch:
            return None  # our own frame came back
        known = self.membership.twin_source
        acks = frame.content.acks if isinstance(frame.content, Hello) else ()
        ours = [
            ack.highest
            for ack in acks
            if ack.node == self.node and ack.epoch == self.epoch
        ]
        twin = self.membership.is_twin(
            (frame.epoch, frame.number),
            max(ours, default=0),
            self.outbox.number,
            source,
            now,
        )
        if twin and not known:
            self.say(
                "warning",
                f"another node calls itself {self.node} too ({source}): its frames are "
                "refused; give each node its own [node] name",
            )
            if not self.role_given and not any(p.live for p in self.peers.values()):
                self.roles.role = BACKUP  # what peers remember is of the other node
        return "name"

    def _receive_hello(
        self, frame: Frame, hello: Hello, source: str, now: float
    ) -> str | None:
        peer = self.membership.admit(frame.sender, now)
        if peer is None:
            return self._no_place(frame.sender, source)
        if hello.order != sys.byteorder or hello.mode != self.settings.mode:
            return self._refuse_alien(peer, hello, source)
        inbox = peer.inbox
        gap = False
        if frame.epoch != inbox.epoch:
            if inbox.is_ended(frame.epoch):
                return None
            if not self._alive(peer, frame, hello, now):
                return None
            if self._is_rival(peer, source, now):
                return "name"
            if self.membership.is_early(peer, source, now):
                return None
            if not self.membership.may_open(peer):
                return self._no_place(frame.sender, source)
            self._open(peer, frame, hello, now)
        else:
            lost = inbox.lost_frames
            if not inbox.accept(frame.number):
                return None
            gap = inbox.lost_frames != lost
        self.membership.heard(peer, source)
        peer.source = source
        peer.heard_at = now
        peer.taken_over = False
        peer.provable = "digest" in hello.capabilities and self.comparison.repairs
        peer.version, peer.capabilities = hello.version, hello.capabilities
        peer.keys = hello.keys
        introduce(peer, hello, self.peers.values())
        inbox.forget_below(hello.floor)
        if hello.reply:
            self.ack_at = now
        elif gap and inbox.lost:
            self.ack_at = min(self.ack_at, now + self.settings.ack_delay_s)
        if peer.claim > self.roles.claim:
            self._overtaken(peer)
        if peer.full and inbox.wants == SATISFIED:  # else its sweep may make room
            self._room_again(peer, hello)
        self._served(peer, hello, now)
        self._acknowledged(peer, hello, now)
        self._compared(peer, hello, now)
        if peer.state is PeerState.SYNCING and self._in_step(peer):
            peer.move(PeerEvent.AGREED)
            peer.patience_s = 0.0
            self.say("info", f"{peer.name} is in step")
            self.comparison.ask(now)
            self.hello_at = now
        return None

    def _in_step(self, peer: Peer) -> bool:
        """Is all here, and all there, and served on?"""
        return (
            peer.agreed
            and peer.swept
            and not peer.full
            and peer.name in self.outbox.acked
        )

    def _no_place(self, name: str, source: str) -> str:
        self.say_once(
            "peers",
            "",
            f"{name} ({source}) is refused: no place for more nodes, the limit is "
            f"[replication] peer_limit = {self.settings.peer_limit}",
        )
        return "peers"

    def _is_rival(self, peer: Peer, source: str, now: float) -> bool:
        before = peer.rival_at
        rival = self.membership.is_rival(peer, source, now)
        if rival and before < 0:
            self.say(
                "warning",
                f"two nodes call themselves {peer.name} ({peer.source} and {source}): "
                "the second is refused; give each node its own [node] name",
            )
        return rival

    def _alive(self, peer: Peer, frame: Frame, hello: Hello, now: float) -> bool:
        """Does this unknown life of a peer go on now, or is the frame an old one?

        A life proves itself by acknowledging a frame that we sent after we first
        heard of it; a frame of a dead life that was late, or is sent again by
        somebody, cannot know its number. Several lives may be in question at once, so
        that old frames do not keep the one that goes on from its proof; nor do they
        keep the question from being put anew.
        """
        candidates = peer.candidates
        number, _ = candidates.get(frame.epoch, (0, 0.0))
        soon = max(now, self.told_at + _ANSWER_S)
        if not peer.live:
            peer.keys = hello.keys
        if not candidates or now - peer.challenged_at >= self.settings.silence_s:
            peer.challenge, peer.challenged_at = self.outbox.number + 1, now
        if number == 0:
            self.hello_at = min(self.hello_at, soon)
            if len(candidates) >= _CANDIDATES_LIMIT:
                del candidates[min(candidates, key=lambda life: candidates[life][1])]
        candidates[frame.epoch] = (max(number, frame.number), now)
        if hello.reply:
            self.ack_at = min(self.ack_at, soon)
        return any(
            ack.node == self.node
            and ack.epoch == self.epoch
            and ack.highest >= peer.challenge
            for ack in hello.acks
        )

    def all_open(self, key_id: bytes) -> bool:
        """Is somebody heard, and can everybody who is open frames of this key?"""
        heard = [peer for peer in self.peers.values() if peer.live or peer.candidates]
        return bool(heard) and all(key_id in peer.keys for peer in heard)

    def _refuse_alien(self, peer: Peer, hello: Hello, source: str) -> str:
        """Another byte order or another mode: nothing can be exchanged."""
        if peer.state is not PeerState.REFUSED and not peer.live:
            self.drop_service(peer, PeerEvent.REFUSED)
        if hello.order != sys.byteorder:
            self.say_once(
                "order",
                source,
                f"{peer.name} ({source}) has byte order {hello.order!r}, this node has "
                f"{sys.byteorder!r}: state is carried as the kernel's own bytes and "
                "cannot be exchanged between them",
            )
            return "version"
        self.say_once(
            "mode",
            source + hello.mode,
            f"{peer.name} ({source}) has [replication] mode {hello.mode!r}, this node "
            f"has {self.settings.mode!r}: give all nodes the same",
        )
        return "mode"

    def _open(self, peer: Peer, frame: Frame, hello: Hello, now: float) -> None:
        """The first word of a new life of a peer."""
        word = "restarted" if peer.inbox.epoch else "appeared"
        version = ".".join(map(str, hello.version))
        self.say("info", f"{peer.name} {word} (protocol {version})")
        peer.inbox.open(frame.epoch, frame.number)
        peer.candidates.clear()
        peer.sources.clear()
        self.membership.settle(peer)
        peer.was_primary = peer.was_primary or peer.role == PRIMARY
        peer.swept = False
        peer.highest_acked = peer.remote_wants = peer.compare = 0
        peer.verdict = peer.verdict_marker = 0
        peer.compared = False
        peer.outbound_buckets = 0
        peer.outbound_differs_at = -1.0
        peer.asks = ()
        peer.inbound_equal = peer.outbound_equal = False
        if peer.name in self.outbox.acked:
            self.outbox.leave(peer.name)
            self.waiting.discard(peer.name)
            peer.move(PeerEvent.RESYNC)
        self.hello_at = now

    def _served(self, peer: Peer, hello: Hello, now: float) -> None:
        """What the peer says about its service to us."""
        for service in hello.services:
            if service.node != self.node or service.epoch != self.epoch:
                continue
            was = peer.inbox.service
            peer.inbox.served(service.number)
            if was != service.number:
                self.ack_at = now
            if service.told and peer.inbox.completes(service.told):
                gone = self._sweep(peer, now)
                if peer.incident_at >= 0:
                    peer.repaired += peer.differing + gone
                    peer.incident_repaired += peer.differing + gone
                peer.differing = 0
                peer.swept = True
                self.ack_at = now
                self.say(
                    "info",
                    f"resync from {peer.name} complete: {len(peer.flows)} flows, "
                    f"{len(peer.expectations)} expectations, {gone} swept",
                )
        if peer.inbox.wants != SATISFIED and peer.state is PeerState.IN_STEP:
            peer.move(PeerEvent.RESYNC)

    def _acknowledged(self, peer: Peer, hello: Hello, now: float) -> None:
        """What the peer says about our frames."""
        for ack in hello.acks:
            if ack.node != self.node:
                continue
            self._remembered(ack)
            if ack.epoch != self.epoch or ack.highest > self.outbox.number:
                continue
            progress = ack.highest > peer.highest_acked
            if progress:
                peer.highest_acked = ack.highest
                peer.progress_at = now
            if peer.name not in self.outbox.acked:
                if progress and now >= peer.suspended_until:
                    self.begin_service(peer, now)
                continue
            known = self.outbox.acked[peer.name]
            self.narrow.acked(peer.name, known, ack.highest, ack.lost, now)
            if self.outbox.acknowledge(peer.name, ack.highest, ack.lost, self.own):
                self.probe_wait_s = self.settings.probe_interval_s
                self.probe_at = now + self.probe_wait_s
            self._wanted(peer, ack)
            self.comparison.acknowledged(peer, ack, self.own, now)

    def _overtaken(self, peer: Peer) -> None:
        """This peer's claim is above ours."""
        if released := self.roles.heard(peer.claim, self.own):
            self.say("info", f"{peer.name} took over: {released} ends released")
        remembered = self.roles.role == PRIMARY and not self.role_given
        if remembered and peer.role == PRIMARY:  # who remembered it did not know
            self.roles.role = BACKUP
            self.say("info", f"{peer.name} took over before this node was started")

    def _compared(self, peer: Peer, hello: Hello, now: float) -> None:
        """What the peer says so that its tables and settings can be compared."""
        self.comparison.heard(peer, hello, now)
        if self.fate.heard(peer.name, peer.fate, hello, self.node, now):
            self.hello_at = now

    def _remembered(self, ack: Ack) -> None:
        """A peer remembers what we were before a restart."""
        if ack.claim <= self.roles.claim:
            return
        self.roles.claim = ack.claim
        if self.role_given or not ack.primary:
            return
        if all(peer.claim <= ack.claim for peer in self.peers.values()):
            self.roles.role = PRIMARY
            self.say("info", "primary again: so the peers remember, nobody took over")

    def _wanted(self, peer: Peer, ack: Ack) -> None:
        """Which pass the peer wants of us."""
        if ack.service != self.outbox.services[peer.name]:
            peer.remote_wants = 0
            return
        peer.remote_wants = ack.wants
        if ack.wants == SATISFIED:
            self.waiting.discard(peer.name)
            return
        if peer.state is PeerState.IN_STEP:
            peer.move(PeerEvent.RESYNC)
        running = self.outbox.running
        if running is not None and peer.name in running.barriers:
            return
        if self.outbox.completed.get(peer.name, 0) <= ack.wants:
            self.waiting.add(peer.name)

    def _receive_data(self, frame: Frame, data: Data, now: float) -> None:
        peer = self.peers.get(frame.sender)
        if peer is None or peer.inbox.epoch != frame.epoch:
            return  # its HELLO has not come yet
        if peer.state is PeerState.REFUSED:
            return
        inbox = peer.inbox
        lost = inbox.lost_frames
        if not inbox.accept(frame.number):
            return
        peer.heard_at = now
        inbox.forget_below(data.floor)
        if data.resync and inbox.begins(data.resync):
            peer.flows.begin_sweep()
            peer.expectations.begin_sweep()
            peer.differing = 0
        if inbox.begun and peer.incident_at >= 0:
            peer.differing += peer.flows.differing(data.flows)
        if data.flows:
            peer.flows.put(self._fitting(peer, peer.flows, data.flows), now)
        if data.flow_ends:
            peer.flows.drop(data.flow_ends)
            self._ended(peer, data.flow_ends)
        if data.expectations:
            fitting = self._fitting(peer, peer.expectations, data.expectations)
            peer.expectations.put(fitting, now)
        if data.expectation_ends:
            peer.expectations.drop(data.expectation_ends)
            self._ended(peer, data.expectation_ends)
        if data.proof is not None and self.comparison.marked(peer, *data.proof, now):
            self.hello_at = now
        if data.inventory is not None and self.comparison.listed(
            peer, data.inventory, self.outbox.payload_bytes, now
        ):
            self.hello_at = now
            self.ended_by(peer, peer.unlisted)
            peer.unlisted = []
        if self.settings.mode != RELIABLE and not data.resync:
            return  # nobody waits for an acknowledgement
        self.unacknowledged_frames += 1
        if (
            inbox.lost_frames != lost
            or self.unacknowledged_frames >= self.settings.ack_frames
        ):
            self.ack_at = now
        else:
            self.ack_at = min(self.ack_at, now + self.settings.ack_delay_s)

    def _receive_unknown(self, frame: Frame, now: float) -> None:
        """A kind of a later minor version: it counts, and says nothing to us."""
        peer = self.peers.get(frame.sender)
        if peer is None or peer.inbox.epoch != frame.epoch:
            return
        if peer.inbox.accept(frame.number):
            peer.heard_at = now
            peer.unknown_frames += 1

    def _fitting(self, peer: Peer, table: Table, flat: list[bytes]) -> list[bytes]:
        """As much of `[key, body, ...]` as the table has room for."""
        limit = self.settings.peer_flows_limit
        if len(table) + len(flat) // 2 <= limit:
            return flat
        fitting: list[bytes] = []
        room = limit - len(table)
        for at in range(0, len(flat), 2):
            known = flat[at] in table.bodies
            if known or room > 0:
                fitting += flat[at : at + 2]
                room -= not known
        missing = (len(flat) - len(fitting)) // 2
        if missing and not peer.full:
            peer.full = True
            self.say(
                "warning",
                f"{peer.name} has more flows than [replication] peer_flows_limit = "
                f"{limit} admits: the rest is not kept, this node is not ready",
            )
            if peer.state is PeerState.IN_STEP:
                peer.move(PeerEvent.RESYNC)
        peer.overflow += missing
        return fitting

    def _room_again(self, peer: Peer, hello: Hello) -> None:
        """Does all of a peer's state fit now? Then what was not kept is asked for."""
        room = self.settings.peer_flows_limit * _ROOM_SHARE
        if hello.flows <= room and hello.expectations <= room:
            peer.full = False
            peer.inbox.want_resync()
            self.say("info", f"there is room for {peer.name}'s flows again")

    def _sweep(self, peer: Peer, now: float) -> int:
        """Everything of a pass was told: forget the rest; how many records.

        Flows that died with an address while the peer's daemon was not there are
        kept aside for a while: a promotion still commits them.
        """
        swept = peer.flows.end_sweep()
        if not peer.swept:
            kept = [item for item in swept if dies_with_address(item[1])]
            peer.departed.clear()
            peer.departed.put([part for item in kept for part in item], now)
            peer.departed_until = now + _DEPARTED_S
            if peer.flows.touched is not None:  # a restart ends no copies
                gone = {key for key, _ in swept}
                gone.difference_update(told_among(self.peers.values(), list(gone)))
                peer.flows.touched.difference_update(gone)
        swept += peer.expectations.end_sweep()
        self.ended_by(peer, [key for key, _ in swept])
        return len(swept)

    def _ended(self, peer: Peer, keys: Sequence[bytes]) -> None:
        """The peer has told their ends: nobody lost whom it succeeded has them."""
        for other in self.peers.values():
            if not other.live and other.claim <= peer.claim:
                other.flows.drop(keys)
                other.expectations.drop(keys)
        self.ended_by(peer, keys)

    def ended_by(self, peer: Peer, keys: Sequence[bytes]) -> None:
        """What the owner of the traffic has ended must not live on in this kernel.

        This node has copies from when it was primary, or from a commit; they would
        come back with its next promotion.
        """
        if peer.role != PRIMARY or self.roles.role == PRIMARY:
            return
        taken_over = peer.claim > self.roles.claim or self.roles.outlived_by(peer)
        if not taken_over or len(self.ended_elsewhere) > _ENDED_LIMIT:
            return
        flows, expectations = self.own.flows.bodies, self.own.expectations.bodies
        self.ended_elsewhere += [
            key for key in keys if key in flows or key in expectations
        ]

    def forget_strangers(self, now: float) -> None:
        """Names that nobody stands for any more."""
        for peer in self.membership.forget(self.own, now):
            self.roles.forget(peer)
            self.say("info", f"{peer.name} is forgotten: it was away for too long")
        if self.membership.twin_gone(now):
            self.say("info", f"no other node calls itself {self.node} any more")

    def expire(self, now: float) -> None:
        """Mode "refresh": what a peer did not tell again has ended."""
        for peer in self.peers.values():
            if self.refresh.period_over(peer, now):
                self.refresh.expired += self._sweep(peer, now)
                self.refresh.begin_period(peer, now)

    def forget_departed(self, now: float) -> None:
        """Nobody took over: what died with an address has ended."""
        for peer in self.peers.values():
            if peer.departed.bodies and now >= peer.departed_until:
                peer.departed.clear()
