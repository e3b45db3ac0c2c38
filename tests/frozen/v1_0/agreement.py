"""How nodes agree: what HELLO and DATA frames say, and what follows from it.

In: frames of peers, taken apart. Out: the peers' tables and states, acknowledgements,
resyncs that are due, our own HELLO. The rule of the room: whatever a peer says is
checked against what it can know; a frame of a life or service that is over changes
nothing.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from syncd.flows.masquerade import dies_with_address

from tests.frozen.v1_0.comparison import Comparison
from tests.frozen.v1_0.frame import Ack, Coder, Data, Frame, Hello, Service
from tests.frozen.v1_0.inbox import SATISFIED
from tests.frozen.v1_0.outbox import Outbox
from tests.frozen.v1_0.own import Own
from tests.frozen.v1_0.peer import Peer, PeerEvent, PeerState
from tests.frozen.v1_0.roles import PRIMARY, Roles

_PEERS_LIMIT = 32
_SAID_LIMIT = 256  # reasons and sources that a log line was written for
_DEPARTED_S = 30.0  # in which somebody should take over from a restarted primary
_ENDED_LIMIT = 1 << 18  # keys that wait for their deletion from this kernel
_MESSAGES_LIMIT = 256  # log lines that wait to be taken


@dataclass(frozen=True, slots=True)
class Settings:
    """The measures of the protocol; times in seconds."""

    hello_interval_s: float = 0.5
    silence_s: float = 3.0  # after which a peer counts as lost
    window_frames: int = 256  # unacknowledged at most
    frame_bytes: int = 1400  # of one datagram at most
    ack_delay_s: float = 0.1
    ack_frames: int = 64  # DATA frames after which an acknowledgement goes at once
    probe_interval_s: float = 0.25  # without acknowledgement, doubled each time
    burst_frames: int = 64  # of one `send`


class Agreement:
    """One node's view of all the others."""

    def __init__(
        self, node: str, epoch: int, settings: Settings, own: Own, now: float
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.settings = settings
        self.own = own
        self.peers: dict[str, Peer] = {}
        self.roles = Roles()
        self.comparison = Comparison()
        self.coder = Coder()
        self.outbox = Outbox(
            node, epoch, self.coder, settings.window_frames, settings.frame_bytes
        )
        self.role_given = False  # by a command, in this life
        self.hello_at = now  # when the next HELLO is due
        self.ack_at = math.inf  # when an acknowledgement is due, with a HELLO
        self.probe_at = math.inf  # when somebody should have acknowledged
        self.probe_wait_s = settings.probe_interval_s
        self.unacknowledged_frames = 0
        self.waiting: set[str] = set()  # peers that want a pass
        self.ended_elsewhere: list[bytes] = []  # our kernel's copies of ended flows
        self._pass_count = 0
        self._messages: list[tuple[str, str]] = []
        self._said: set[tuple[str, str]] = set()

    def receive(self, frame: Frame, source: str, now: float) -> str | None:
        """Take one frame; the reason for which it was refused, or None."""
        if frame.sender == self.node:
            return self._own_name(frame, source)
        if isinstance(frame.content, Hello):
            return self._receive_hello(frame, frame.content, source, now)
        self._receive_data(frame, frame.content, now)
        return None

    def _own_name(self, frame: Frame, source: str) -> str | None:
        if frame.epoch == self.epoch:
            return None  # our own frame came back
        self.say_once(
            "name",
            source,
            f"another node calls itself {self.node} too ({source}): its frames are "
            "refused; give each node its own [node] name",
        )
        return "name"

    def _receive_hello(
        self, frame: Frame, hello: Hello, source: str, now: float
    ) -> str | None:
        peer = self.peers.get(frame.sender)
        if peer is None:
            if len(self.peers) >= _PEERS_LIMIT:
                self.say_once("peers", "", f"more than {_PEERS_LIMIT} nodes: ignored")
                return "peers"
            peer = self.peers[frame.sender] = Peer(frame.sender)
        if hello.order != sys.byteorder:
            return self._refuse_order(peer, hello, source)
        inbox = peer.inbox
        gap = False
        if frame.epoch != inbox.epoch:
            if inbox.is_ended(frame.epoch) or not self._alive(peer, frame, hello, now):
                return None
            self._open(peer, frame, hello, now)
        else:
            lost = inbox.lost_frames
            if not inbox.accept(frame.number):
                return None
            gap = inbox.lost_frames != lost
        peer.source = source
        peer.heard_at = now
        peer.role = hello.role
        if hello.claim >= peer.claim:
            peer.claim = hello.claim
            peer.was_primary = False
        peer.owner = hello.owner
        inbox.forget_below(hello.floor)
        if hello.reply:
            self.ack_at = now
        elif gap and inbox.lost:
            self.ack_at = min(self.ack_at, now + self.settings.ack_delay_s)
        if peer.claim > self.roles.claim:
            released = self.roles.heard(peer.claim, self.own)
            if released:
                self.say("info", f"{peer.name} took over: {released} ends released")
        self._served(peer, hello, now)
        self._acknowledged(peer, hello, now)
        if self.comparison.heard(peer, hello, now):
            self.hello_at = now
        if peer.state is PeerState.SYNCING and peer.agreed and peer.swept:
            peer.move(PeerEvent.AGREED)
            self.say("info", f"{peer.name} is in step")
            self.comparison.ask(now)
            self.hello_at = now
        return None

    def _alive(self, peer: Peer, frame: Frame, hello: Hello, now: float) -> bool:
        """Does this unknown life of a peer go on now, or is the frame an old one?

        A life proves itself by acknowledging a frame that we sent after we first
        heard of it; a frame of a dead life that was late, or is sent again by
        somebody, cannot know its number.
        """
        if peer.candidate != frame.epoch:
            peer.candidate, peer.candidate_number = frame.epoch, frame.number
            peer.challenge = self.outbox.number + 1
            self.hello_at = now
            return False
        peer.candidate_number = max(peer.candidate_number, frame.number)
        if hello.reply:
            self.ack_at = now
        return any(
            ack.node == self.node
            and ack.epoch == self.epoch
            and ack.highest >= peer.challenge
            for ack in hello.acks
        )

    def _refuse_order(self, peer: Peer, hello: Hello, source: str) -> str:
        if peer.state is not PeerState.REFUSED:
            self._drop_service(peer, PeerEvent.REFUSED)
        self.say_once(
            "order",
            source,
            f"{peer.name} ({source}) has byte order {hello.order!r}, this node has "
            f"{sys.byteorder!r}: state is carried as the kernel's own bytes and cannot "
            "be exchanged between them",
        )
        return "version"

    def _open(self, peer: Peer, frame: Frame, hello: Hello, now: float) -> None:
        """The first word of a new life of a peer."""
        word = "restarted" if peer.inbox.epoch else "appeared"
        version = ".".join(map(str, hello.version))
        self.say("info", f"{peer.name} {word} (protocol {version})")
        peer.inbox.open(frame.epoch, frame.number)
        peer.candidate = 0
        peer.was_primary = peer.was_primary or peer.role == PRIMARY
        peer.swept = False
        peer.highest_acked = peer.remote_wants = peer.compare = 0
        peer.verdict = peer.verdict_marker = 0
        peer.copy = None
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
                peer.repaired += peer.differing + (gone if peer.inbound_at >= 0 else 0)
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
                if progress:
                    self._begin_service(peer, now)
                continue
            if self.outbox.acknowledge(peer.name, ack.highest, ack.lost, self.own):
                self.probe_wait_s = self.settings.probe_interval_s
                self.probe_at = now + self.probe_wait_s
            self._wanted(peer, ack)
            self.comparison.acknowledged(peer, ack, now)

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

    def _begin_service(self, peer: Peer, now: float) -> None:
        if peer.state is not PeerState.SYNCING:
            peer.move(PeerEvent.HEARD)
        peer.remote_wants = 0
        self.outbox.join(peer.name)
        self.hello_at = now

    def _drop_service(self, peer: Peer, event: PeerEvent) -> None:
        peer.move(event)
        self.outbox.leave(peer.name)
        self.waiting.discard(peer.name)
        peer.inbound_equal = peer.outbound_equal = False

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
        if inbox.begun and peer.inbound_at >= 0:
            peer.differing += peer.flows.differing(data.flows)
        if data.flows:
            peer.flows.put(data.flows, now)
        if data.flow_ends:
            peer.flows.drop(data.flow_ends)
            self._ended_by(peer, data.flow_ends)
        if data.expectations:
            peer.expectations.put(data.expectations, now)
        if data.expectation_ends:
            peer.expectations.drop(data.expectation_ends)
        if data.marker:
            self.comparison.marked(peer, data.marker)
        self.unacknowledged_frames += 1
        if (
            inbox.lost_frames != lost
            or self.unacknowledged_frames >= self.settings.ack_frames
        ):
            self.ack_at = now
        else:
            self.ack_at = min(self.ack_at, now + self.settings.ack_delay_s)

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
        self._ended_by(peer, [key for key, _ in swept])
        return len(swept) + len(peer.expectations.end_sweep())

    def _ended_by(self, peer: Peer, keys: Sequence[bytes]) -> None:
        """What the owner of the traffic has ended must not live on in this kernel.

        This node has copies from when it was primary, or from a commit; they would
        come back with its next promotion.
        """
        if peer.role != PRIMARY or self.roles.role == PRIMARY:
            return
        if peer.claim <= self.roles.claim or len(self.ended_elsewhere) > _ENDED_LIMIT:
            return
        ours = self.own.flows.bodies
        self.ended_elsewhere += [key for key in keys if key in ours]

    def forget_departed(self, now: float) -> None:
        """Nobody took over: what died with an address has ended."""
        for peer in self.peers.values():
            if peer.departed.bodies and now >= peer.departed_until:
                peer.departed.clear()

    def silent_peers(self, now: float) -> None:
        """Peers that were not heard, or did not hear us, for too long are lost."""
        silence = self.settings.silence_s
        for peer in self.peers.values():
            if not peer.live:
                continue
            if now - peer.heard_at >= silence:
                self.say("warning", f"{peer.name} is silent: lost")
            elif now - peer.progress_at >= silence:
                self.say("warning", f"{peer.name} does not hear this node: lost")
            else:
                continue
            self._drop_service(peer, PeerEvent.SILENT)

    def pass_due(self) -> bool:
        """Does a peer wait for a resync that can begin?"""
        return self.outbox.running is None and bool(self.waiting) and not self._untold()

    def begin_pass(self) -> None:
        """Start the resync that is due."""
        wanting = self.waiting & self.outbox.acked.keys()
        self.waiting.clear()
        if wanting:
            self._pass_count += 1
            self.outbox.begin_pass(self._pass_count, self.own, sorted(wanting))

    def _untold(self) -> bool:
        """Is there a peer that does not know yet that its pass was complete?

        The next pass waits for it: its first frame would begin a new sweep there.
        """
        return any(
            name in self.outbox.completed and self.peers[name].remote_wants != SATISFIED
            for name in self.outbox.acked
            if name not in self.waiting
        )

    def hellos(self, reply: bool) -> list[bytes]:
        """HELLO as one datagram, or as several if the MTU asks for it."""
        hello = Hello(
            role=self.roles.role,
            claim=self.roles.claim,
            owner=self.roles.owner(self.peers.values()),
            floor=self.outbox.floor,
            reply=reply,
            flows=len(self.own.flows),
            expectations=len(self.own.expectations),
            digest=self.comparison.own_digest,
            compare=self.comparison.asked,
        )
        known = [p for p in self.peers.values() if p.inbox.epoch or p.candidate]
        return self._hellos_about(hello, known)

    def _hellos_about(self, hello: Hello, peers: list[Peer]) -> list[bytes]:
        full = replace(
            hello,
            acks=tuple(_ack(peer) for peer in peers if peer.inbox.epoch)
            + tuple(_answer(peer) for peer in peers if peer.candidate),
            services=tuple(
                Service(
                    peer.name,
                    peer.inbox.epoch,
                    self.outbox.services[peer.name],
                    self.outbox.completed.get(peer.name, 0),
                )
                for peer in peers
                if peer.name in self.outbox.services
            ),
        )
        number = self.outbox.number + 1
        datagram = self.coder.pack_hello(self.node, self.epoch, number, full)
        if len(datagram) > self.outbox.frame_bytes and len(peers) > 1:
            half = len(peers) // 2
            return self._hellos_about(hello, peers[:half]) + self._hellos_about(
                hello, peers[half:]
            )
        self.outbox.number = number
        return [datagram]

    def take_messages(self) -> list[tuple[str, str]]:
        """Log lines since the last call: (level, text)."""
        messages, self._messages = self._messages, []
        return messages

    def say(self, level: str, text: str) -> None:
        if len(self._messages) < _MESSAGES_LIMIT:
            self._messages.append((level, text))

    def say_once(self, reason: str, source: str, text: str) -> None:
        if (reason, source) in self._said or len(self._said) >= _SAID_LIMIT:
            return
        self._said.add((reason, source))
        self.say("warning", text)


def _ack(peer: Peer) -> Ack:
    """What we say about one peer's frames."""
    inbox = peer.inbox
    return Ack(
        node=peer.name,
        epoch=inbox.epoch,
        highest=inbox.highest,
        lost=tuple(inbox.lost),
        wants=inbox.wants,
        service=inbox.service,
        claim=peer.claim,
        primary=peer.was_primary or peer.role == PRIMARY,
        marker=peer.verdict_marker,
        verdict=peer.verdict,
    )


def _answer(peer: Peer) -> Ack:
    """What we say to a life of a peer that has not proved itself yet."""
    return Ack(peer.name, peer.candidate, peer.candidate_number, claim=peer.claim)
