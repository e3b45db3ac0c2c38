"""What we tell the peers about ourselves and about them: HELLO, services, passes.

In: what this node holds and has heard. Out: HELLOs with their acknowledgements, whom
we serve and who is lost, which resync begins, log lines. The rule of the room: what is
said is the present state of `Agreement`, which hears and decides.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from syncd.flows.own import Own
from syncd.replication.comparison import DIFFERENT, Comparison
from syncd.replication.fate import FateExchange
from syncd.replication.frame import Coder, envelope_bytes
from syncd.replication.hello import Ack, Fate, Hello, Item, Service
from syncd.replication.inbox import SATISFIED
from syncd.replication.membership import Membership
from syncd.replication.narrow import Narrow
from syncd.replication.outbox import Outbox
from syncd.replication.paths import Paths
from syncd.replication.peer import Peer, PeerEvent, PeerState
from syncd.replication.refresh import Refresh
from syncd.replication.roles import PRIMARY, Roles
from syncd.replication.settings import RELIABLE, Settings

_SAID_LIMIT = 64  # sources that a log line was written for, of each reason
_PATIENCE_LIMIT_S = 60.0  # of a slow peer
_MESSAGES_LIMIT = 256  # log lines that wait to be taken


class Speaker:
    """The half of `Agreement` that speaks."""

    def __init__(
        self, node: str, epoch: int, settings: Settings, own: Own, now: float
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.settings = settings
        self.own = own
        self.membership = Membership(settings)
        self.peers = self.membership.peers
        self.roles = Roles()
        self.comparison = Comparison(self.say)
        self.coder = Coder()
        self.outbox = Outbox(
            self.coder,
            settings.window_frames,
            settings.frame_bytes - envelope_bytes(node),
        )
        self.paths = Paths(settings)
        self.outbox.tracked = self.comparison.repairs = settings.mode == RELIABLE
        self.narrow = Narrow(self.paths, self.say)
        self.refresh = Refresh(settings, now)
        self.fate = FateExchange(self.say)
        self.role_given = False  # by a command, in this life
        self.key_ids: tuple[bytes, ...] = ()  # that frames are opened with here
        self.told_at = -math.inf  # when the latest HELLO left
        self.hello_at = now  # when the next HELLO is due
        self.quiet_until = now  # no HELLO before that, whatever there is to say
        self.ack_at = math.inf  # when an acknowledgement is due, with a HELLO
        self.probe_at = math.inf  # when somebody should have acknowledged
        self.probe_wait_s = settings.probe_interval_s
        self.unacknowledged_frames = 0
        self.waiting: set[str] = set()  # peers that want a pass
        self.ended_elsewhere: list[bytes] = []  # our kernel's copies of ended flows
        self._pass_count = 0
        self._messages: list[tuple[str, str]] = []
        self._said: dict[str, set[str]] = {}  # reason -> sources

    def begin_service(self, peer: Peer, now: float) -> None:
        """From now on the peer has to acknowledge what we say."""
        if peer.state is not PeerState.SYNCING:
            peer.move(PeerEvent.HEARD)
        peer.remote_wants = 0
        self.outbox.join(peer.name)
        self.hello_at = now

    def drop_service(self, peer: Peer, event: PeerEvent) -> None:
        """Nothing waits for this peer any more."""
        peer.move(event)
        self.outbox.leave(peer.name)
        self.waiting.discard(peer.name)
        peer.inbound_equal = peer.outbound_equal = False

    def suspend(self, peer: Peer, now: float) -> None:
        """A peer that the others waited for too long: it gets a resync later."""
        if not peer.patience_s:
            self.say(
                "warning",
                f"{peer.name} is too slow for the others: it falls back to resyncs",
            )
        peer.suspensions += 1
        peer.patience_s = min(max(2 * peer.patience_s, 1.0), _PATIENCE_LIMIT_S)
        peer.suspended_until = now + peer.patience_s
        self.drop_service(peer, PeerEvent.RESYNC)
        self.outbox.suspend(peer.name)
        peer.remote_wants = 0
        self.hello_at = now

    def probe_due(self, now: float) -> bool:
        """Has nobody acknowledged for too long? The last frames may be lost."""
        if not self.outbox.unacked:
            self.probe_at = math.inf
            self.probe_wait_s = self.settings.probe_interval_s
        elif self.probe_at == math.inf:
            self.probe_at = now + self.probe_wait_s
        elif now >= max(self.probe_at, self.quiet_until):
            interval = self.settings.hello_interval_s
            self.probe_wait_s = min(2 * self.probe_wait_s, interval)
            self.probe_at = now + self.probe_wait_s
            return True
        return False

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
            self.drop_service(peer, PeerEvent.SILENT)

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

    def hellos(self, reply: bool, now: float, room: int) -> list[tuple[int, Hello]]:
        """HELLO as one frame, or as several if `room` for a payload asks for it.

        What each says of the link that it leaves by is put in when it leaves; with any
        of these it has to fit, and compressed a shorter one may be longer.
        """
        hello = Hello(
            mode=self.settings.mode,
            role=self.roles.role,
            claim=self.roles.claim,
            owner=self.roles.owner(self.peers.values()),
            floor=self.outbox.floor,
            reply=reply,
            flows=len(self.own.flows),
            expectations=len(self.own.expectations),
            compare=self.comparison.asked,
            keys=self.key_ids,
            hears=self.paths.hears(),
            acks=self._twin_answer(),
            fate=self.fate.told(
                {name: peer.fate for name, peer in self.peers.items() if peer.live}, now
            ),
        )
        for peer in self.peers.values():
            for epoch, (_, heard_at) in list(peer.candidates.items()):
                if now - heard_at >= self.settings.silence_s:
                    del peer.candidates[epoch]
        known = [p for p in self.peers.values() if p.inbox.epoch or p.candidates]
        return self._hellos_about(hello, known, room) + self._fate_parts(
            replace(hello, acks=(), hears=(), reply=False), room, now
        )

    def use_fate(self, items: Iterable[Item], now: float) -> None:
        """What this node's kernel is set to; see `fate.py`."""
        told = {name: peer.fate for name, peer in self.peers.items()}
        if self.fate.use(items, told):
            self.hello_at = now

    def _fate_parts(
        self, hello: Hello, room: int, now: float
    ) -> list[tuple[int, Hello]]:
        """This node's settings, if somebody asked: HELLOs about nobody."""

        def fits(fate: Fate, beside: int) -> bool:
            return self._longest(replace(hello, fate=fate)) + beside <= room

        parts = []
        for fate in self.fate.parts(fits, now):
            self.outbox.number += 1
            parts.append((self.outbox.number, replace(hello, fate=fate)))
        return parts

    def _twin_answer(self) -> tuple[Ack, ...]:
        """For another node of our name, so that it can tell us from an old frame."""
        epoch, number = self.membership.twin
        return (Ack(self.node, epoch, number),) if epoch else ()

    def _hellos_about(
        self, hello: Hello, peers: list[Peer], room: int
    ) -> list[tuple[int, Hello]]:
        full = replace(
            hello,
            acks=hello.acks
            + tuple(_ack(peer) for peer in peers if peer.inbox.epoch)
            + tuple(answer for peer in peers for answer in _answers(peer)),
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
        while self._longest(full) > room:
            if len(peers) > 1:
                parts = peers[: len(peers) // 2], peers[len(peers) // 2 :]
                return [
                    frame
                    for part in parts
                    for frame in self._hellos_about(_about(hello, part), part, room)
                ]
            shorter = tuple(ack.shorter() for ack in full.acks)
            if shorter == full.acks:
                break
            full = replace(full, acks=shorter)
        self.outbox.number += 1
        return [(self.outbox.number, full)]

    def _longest(self, hello: Hello) -> int:
        """Bytes of the largest of its copies."""
        ways = [self.paths.way(place) for place in self.paths.usable]
        copies = [replace(hello, way=way) for way in ways] or [hello]
        return max(len(self.coder.pack_hello(copy)) for copy in copies)

    def take_messages(self) -> list[tuple[str, str]]:
        """Log lines since the last call: (level, text)."""
        messages, self._messages = self._messages, []
        return messages

    def say(self, level: str, text: str) -> None:
        """One log line, unless too many wait."""
        if len(self._messages) < _MESSAGES_LIMIT:
            self._messages.append((level, text))

    def say_once(self, reason: str, source: str, text: str) -> None:
        """One warning for each reason and source in this life."""
        said = self._said.setdefault(reason, set())
        if source not in said and len(said) < _SAID_LIMIT:
            said.add(source)
            self.say("warning", text)


def _about(hello: Hello, peers: list[Peer]) -> Hello:
    """Of the links that we hear by, and of whom we ask, only those of these peers."""
    names = {peer.name for peer in peers}
    fate = hello.fate
    if fate is not None:
        fate = replace(fate, wanted=tuple(n for n in fate.wanted if n in names))
    hears = tuple(h for h in hello.hears or () if h[0] in names)
    return replace(hello, hears=hears, fate=fate)


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
        buckets=peer.buckets if peer.verdict == DIFFERENT else 0,
        asks=peer.asks,
    )


def _answers(peer: Peer) -> list[Ack]:
    """What we say to lives of a peer that have not proved themselves yet."""
    return [
        Ack(peer.name, epoch, number, claim=peer.claim)
        for epoch, (number, _) in peer.candidates.items()
    ]
