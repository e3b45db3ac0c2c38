"""Comparisons of tables with the peers: who asks, where the markers stand, verdicts.

In: the moments at which the stream is at rest, markers and digests of peers. Out: our
own digest for the HELLO, verdicts on our copies. See `digest.py` for the proof itself.
"""

import math

from tests.frozen.v1_0.digest import (
    DIFFERENT,
    EQUAL,
    NO_VERDICT,
    UNCLEAN,
    Digest,
)
from tests.frozen.v1_0.frame import Ack, Hello
from tests.frozen.v1_0.inbox import SATISFIED
from tests.frozen.v1_0.own import Own
from tests.frozen.v1_0.peer import Peer

_RETRY_S = 0.1
_RETRIES_LIMIT = 100
_REPAIR_INTERVAL_S = 5.0  # between two resyncs that differences cause, per peer


class Comparison:
    """The comparisons that one node takes part in."""

    __slots__ = ("_digest", "_due_at", "_retries", "asked", "differences", "marker")

    def __init__(self) -> None:
        self.asked = 0  # how often we asked the peers to show their digests
        self.marker = 0  # number of our latest snapshot
        self.differences = 0  # verdicts "different", ours and theirs
        self._digest: Digest | None = None
        self._due_at = math.inf
        self._retries = 0

    def ask(self, now: float) -> None:
        """Compare everything with everybody, now."""
        self.asked += 1
        self._retries = 0
        self._due_at = now

    def due(self, now: float) -> bool:
        """Shall the next frame that leaves no mark behind carry a marker?"""
        return now >= self._due_at

    def take_snapshot(self, own: Own) -> None:
        """The frame with marker `self.marker + 1` is leaving."""
        self.marker += 1
        self._due_at = math.inf
        self._digest = Digest(self.marker, own.flows.bodies, own.expectations.bodies)

    @property
    def own_digest(self) -> tuple[int, int, int, int]:
        """For the HELLO; zeros as long as there is none."""
        digest = self._digest
        return digest.value if digest is not None and digest.done else (0, 0, 0, 0)

    def working(self, peers: dict[str, Peer]) -> bool:
        """Is there hashing to do?"""
        if self._digest is not None and not self._digest.done:
            return True
        return any(p.copy is not None and not p.copy.done for p in peers.values())

    def proceed(self, peers: dict[str, Peer], now: float) -> bool:
        """Hash one slice; True when a result came of it that peers should hear."""
        digest = self._digest
        if digest is not None and not digest.done:
            return digest.proceed()
        for peer in peers.values():
            if peer.copy is not None and not peer.copy.done:
                return peer.copy.proceed() and self._judge(peer, now)
        return False

    def marked(self, peer: Peer, marker: int) -> None:
        """A peer's marker: take a snapshot of our copy if it is complete here."""
        if peer.inbox.lost or peer.inbox.wants != SATISFIED:
            peer.copy = None
            peer.verdict, peer.verdict_marker = UNCLEAN, marker
            return
        peer.verdict, peer.verdict_marker = NO_VERDICT, marker
        peer.copy = Digest(marker, peer.flows.bodies, peer.expectations.bodies)

    def heard(self, peer: Peer, hello: Hello, now: float) -> bool:
        """A peer's HELLO: its digest, and whether it asks for ours."""
        if hello.compare > peer.compare:
            peer.compare = hello.compare
            self._retries = 0
            self._due_at = min(self._due_at, now)
        peer.remote_digest = hello.digest
        marker = hello.digest[0]
        if marker > peer.verdict_marker:
            peer.copy = None
            peer.verdict, peer.verdict_marker = UNCLEAN, marker
            return True
        return self._judge(peer, now)

    def _judge(self, peer: Peer, now: float) -> bool:
        """Give the verdict on our copy of a peer's tables, if both digests are here."""
        copy = peer.copy
        if copy is None or not copy.done or copy.marker != peer.remote_digest[0]:
            return False
        peer.copy = None
        peer.inbound_equal = copy.value == peer.remote_digest
        peer.inbound_at = now
        peer.verdict = EQUAL if peer.inbound_equal else DIFFERENT
        if not peer.inbound_equal:
            self.differences += 1
            if now - peer.pulled_at >= _REPAIR_INTERVAL_S:
                peer.pulled_at = now
                peer.inbox.want_resync()
        return True

    def acknowledged(self, peer: Peer, ack: Ack, now: float) -> None:
        """A peer's verdict on its copy of our tables."""
        if ack.marker != self.marker or ack.verdict == NO_VERDICT:
            return
        if ack.verdict == UNCLEAN:
            if self._retries < _RETRIES_LIMIT and self._due_at == math.inf:
                self._retries += 1
                self._due_at = now + _RETRY_S
            return
        if ack.verdict == DIFFERENT and peer.outbound_equal:
            self.differences += 1
        peer.outbound_equal = ack.verdict == EQUAL
        peer.outbound_at = now

    def deadline(self) -> float:
        """When the next marker is due."""
        return self._due_at
