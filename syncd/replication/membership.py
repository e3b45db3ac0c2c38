"""Who belongs to the cluster: how many, under which names, and until when.

In: the names, lives and sources that frames come from, the time. Out: the peers, and
which frames are refused. The rules of the room:

- A name takes one of `peer_limit` places when a life of it has proved itself (see
  `Agreement`). Strangers wait in few places of their own, for `silence_s`: a flood of
  names keeps no peer out that is there, and costs no memory.
- Two nodes of one name that are heard at the same time, from different sources: the one
  that was there first stays, the other one is refused until the first is silent.
- A peer that left for good is forgotten, unless it alone has flows that nobody took.
"""

from collections.abc import Iterable
from itertools import chain

from syncd.flows.own import Own
from syncd.replication.peer import Peer, PeerState
from syncd.replication.settings import Settings

_STRANGERS_LIMIT = 16
_SOURCES_LIMIT = 16  # of one life of a peer
_QUIET_INTERVALS = 2.2  # without a HELLO: a life may be over
_TOGETHER_INTERVALS = 3.0  # that two lives have to be heard side by side
_LOOK_S = 10.0  # between two looks for peers to forget


class Membership:
    """The other nodes, and those that cannot become one."""

    __slots__ = (
        "_look_at",
        "_settings",
        "_twin",
        "_twin_challenge",
        "_twin_heard_at",
        "conflicts",
        "forgotten",
        "peers",
        "refused",
        "twin_at",
        "twin_source",
    )

    def __init__(self, settings: Settings) -> None:
        self.peers: dict[str, Peer] = {}
        self.refused = 0  # frames of nodes that there is no place for
        self.forgotten = 0  # peers
        self.conflicts = 0  # frames refused because two nodes have one name
        self.twin_source = ""  # of another node with our own name, "" = none
        self.twin_at = -1.0
        self._twin: tuple[int, int, float] = (0, 0, 0.0)  # epoch, number, first heard
        self._twin_challenge = 0  # the number of ours that it has to acknowledge
        self._twin_heard_at = 0.0
        self._settings = settings
        self._look_at = 0.0

    def admit(self, name: str, now: float) -> Peer | None:
        """The peer of that name, a new one if there is a place."""
        peer = self.peers.get(name)
        if peer is None:
            strangers = self._strangers()
            if len(strangers) >= _STRANGERS_LIMIT or self._full():
                self.refused += 1
                return None
            peer = self.peers[name] = Peer(name)
        if not peer.inbox.epoch:
            peer.heard_at = now
        return peer

    def may_open(self, peer: Peer) -> bool:
        """A life has proved itself: is there a place for it?"""
        if peer.inbox.epoch or not self._full():
            return True
        self.refused += 1
        return False

    def _strangers(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if not peer.inbox.epoch]

    def _full(self) -> bool:
        members = sum(peer.inbox.epoch != 0 for peer in self.peers.values())
        return members >= self._settings.peer_limit

    # One name, two nodes

    def heard(self, peer: Peer, source: str) -> None:
        """The life that we know is heard from this source."""
        if source not in peer.sources and len(peer.sources) < _SOURCES_LIMIT:
            peer.sources.add(source)

    def is_rival(self, peer: Peer, source: str, now: float) -> bool:
        """Is this life of a peer, which goes on, heard beside another one that does?

        From another source than the life that we know it has to wait until that one
        is quiet; heard side by side for a while, they are two nodes.
        """
        settings = self._settings
        if not peer.inbox.epoch or source in peer.sources:
            return False
        quiet_s = now - peer.heard_at
        if peer.rival_at >= 0:
            if quiet_s < settings.silence_s:
                peer.rival_at = now
                self.conflicts += 1
                return True
            self.settle(peer)
        if peer.rival_since < 0:
            peer.rival_since = now
        together_s = peer.heard_at - peer.rival_since
        if together_s >= _TOGETHER_INTERVALS * settings.hello_interval_s:
            peer.rival_at, peer.rival_source = now, source
            self.conflicts += 1
            return True
        return False

    def is_early(self, peer: Peer, source: str, now: float) -> bool:
        """Has a life from another source to wait, because the known one may go on?"""
        if not peer.inbox.epoch or source in peer.sources:
            return False
        wait_s = _QUIET_INTERVALS * self._settings.hello_interval_s
        return now - peer.heard_at < min(wait_s, self._settings.silence_s)

    def settle(self, peer: Peer) -> None:
        """There is one life of that name only."""
        peer.rival_at = peer.rival_since = -1.0
        peer.rival_source = ""

    def is_twin(
        self, frame: tuple[int, int], acked: int, sent: int, source: str, now: float
    ) -> bool:
        """A frame with our own name that is not ours: of a node that goes on?

        `frame` is its epoch and number, `acked` our latest frame that it acknowledges,
        `sent` the latest one that left. Old frames of a life of ours before, which
        somebody repeats, cannot know that number.
        """
        epoch, number = frame
        known, highest, since = self._twin
        self._twin_heard_at = now
        if known != epoch:
            self._twin = (epoch, number, now)
            self._twin_challenge = sent + 1
            return False
        self._twin = (epoch, max(number, highest), since)
        interval_s = self._settings.hello_interval_s
        early = number <= highest or now - since < 0.9 * interval_s
        if early or acked < self._twin_challenge:
            return self.twin_source != ""
        self.conflicts += 1
        self.twin_at, self.twin_source = now, source
        return True

    def twin_gone(self, now: float) -> bool:
        """Has the other node of our name fallen silent just now?"""
        if now - self._twin_heard_at >= self._settings.silence_s:
            self._twin = (0, 0, 0.0)
        if not self.twin_source or now - self.twin_at < self._settings.silence_s:
            return False
        self.twin_source = ""
        self._twin = (0, 0, 0.0)
        return True

    @property
    def twin(self) -> tuple[int, int]:
        """Epoch and highest number of who has our name, zeros if nobody is heard."""
        return self._twin[:2]

    # Until when

    def forget(self, own: Own, now: float) -> list[Peer]:
        """Forget silent strangers, and peers that left for good; return the latter."""
        silence_s = self._settings.silence_s
        for peer in self._strangers():
            if now - peer.heard_at >= silence_s:
                del self.peers[peer.name]
        if now < self._look_at:
            return []
        self._look_at = now + min(_LOOK_S, self._settings.forget_after_s)
        gone = [
            peer
            for peer in self.peers.values()
            if peer.state in (PeerState.LOST, PeerState.REFUSED)
            and now - peer.heard_at >= self._settings.forget_after_s
            and not self._sole_holder(peer, own)
        ]
        for peer in gone:
            del self.peers[peer.name]
        self.forgotten += len(gone)
        return gone

    def _sole_holder(self, peer: Peer, own: Own) -> bool:
        """Would flows be lost with it that nobody took over?"""
        if peer.taken_over or not (peer.owner or peer.claim == 0):
            return False
        others = [other for other in self.peers.values() if other.live]
        return not all(
            _held_by(key, chain((ours.bodies,), theirs))
            for table, ours, theirs in (
                (peer.flows, own.flows, [p.flows.bodies for p in others]),
                (
                    peer.expectations,
                    own.expectations,
                    [p.expectations.bodies for p in others],
                ),
            )
            for key in table.bodies
        )


def _held_by(key: bytes, tables: Iterable[dict[bytes, bytes]]) -> bool:
    return any(key in bodies for bodies in tables)
