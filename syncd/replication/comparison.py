"""Proof that copies are equal: markers, verdicts, and what a difference leads to.

In: the beat, markers of peers, their verdicts on our markers. Out: proof frames and
inventories, asks for the HELLO, log lines, and, as the last resort, a resync.

A sender puts a numbered proof into a DATA frame of its own: the digest over what all
frames have told up to there. The receiver compares at the instant at which it takes
that frame. Equal is equal, whatever was lost; a difference counts only if nothing is
missing before the frame, else the verdict is `UNCLEAN` and the sender soon tries again.
"""

import math
from collections.abc import Callable

from syncd.flows.digest import BUCKETS
from syncd.flows.own import Own
from syncd.replication.frame import Inventory, Numbered
from syncd.replication.hello import Ack, Hello
from syncd.replication.inbox import SATISFIED
from syncd.replication.location import FAR_APART, Lister
from syncd.replication.outbox import Outbox
from syncd.replication.peer import Peer

NO_VERDICT = 0
EQUAL = 1
DIFFERENT = 2
UNCLEAN = 3  # frames were missing at the marker

_BEAT_S = 1.0
_ASKED_S = 0.02  # in which our question arrives before our own proof
_RETRY_S = 0.2  # after a verdict that was not "equal"
_PROOF_S = 10.0  # in which a proof has to be given again
_LOCATION_S = 5.0  # in which a difference has to be located and repaired
_RESYNC_WAIT_LIMIT_S = 320.0
_ROUND_RECORD_S = 1e-6  # and so long for the next round, which looks through all of it
Say = Callable[[str, str], None]


class Comparison:
    """The comparisons that one node takes part in."""

    __slots__ = (
        "_due_at",
        "_lister",
        "_say",
        "_step_at",
        "asked",
        "differences",
        "marker",
        "repairs",
    )

    def __init__(self, say: Say) -> None:
        self.asked = 0  # how often we asked the peers to prove themselves
        self.marker = 0  # number of our latest proof
        self.repairs = True  # is a difference put right, or only told?
        self.differences = 0  # incidents, in our copies and in those of ours
        self._due_at = 0.0
        self._lister = Lister()
        self._step_at = math.inf  # when a piece of a count or of a listing is due
        self._say = say

    def ask(self, now: float) -> None:
        """Compare with everybody, now."""
        self.asked += 1
        self._due_at = now

    def verify(self, peers: dict[str, Peer], now: float) -> None:
        """The same for a person who asks: everything is counted afresh before.

        Flushed tables are asked for. Our own proof follows the HELLO that has the peers
        do the same.
        """
        self.asked += 1
        self._due_at = now + _ASKED_S
        self._step_at = now
        for peer in peers.values():
            peer.audit.request(peer, now)
            if not peer.swept and peer.inbox.wants == SATISFIED:
                peer.inbox.want_resync()  # it was flushed

    # As a sender

    def inventories(self, outbox: Outbox, own: Own, now: float) -> list[Numbered]:
        """Those that are due, if no peer is known to miss anything."""
        if not self._lister.spans or not self._may_speak(outbox, own):
            return []
        frames = self._lister.burst(outbox, own, now)
        if not self._lister.spans:
            self._due_at = min(self._due_at, now + _RETRY_S)
        return frames

    def proofs(self, outbox: Outbox, own: Own, now: float) -> list[Numbered]:
        """The proof that is due, if no peer is known to miss anything."""
        if now < self._due_at or not self._may_speak(outbox, own):
            return []
        self.marker += 1
        self._due_at = now + _BEAT_S
        return [outbox.pack_proof(self.marker)]

    def _may_speak(self, outbox: Outbox, own: Own) -> bool:
        return (
            bool(outbox.acked)
            and outbox.window_open
            and not own.flows.owed
            and not own.expectations.owed
        )

    def deadline(self, outbox: Outbox, own: Own, now: float) -> float:
        """When there is something to send, or a piece of a count is due."""
        if not self._may_speak(outbox, own):
            return self._step_at
        return now if self._lister.spans else min(self._due_at, self._step_at)

    def acknowledged(self, peer: Peer, ack: Ack, own: Own, now: float) -> None:
        """A peer's verdict on its copy of our tables, and what it asks for."""
        if ack.wants != SATISFIED and peer.outbound_differs_at >= 0:
            self._lister.stop()  # it wants everything: the rest is of no use
        if ack.marker > self.marker or ack.verdict == NO_VERDICT:
            return
        if ack.marker > peer.outbound_marker:
            peer.outbound_marker = ack.marker
            peer.outbound_asks = 0
            self._judged(peer, ack, now)
        asks = ack.asks
        if ack.marker == peer.outbound_marker and len(asks) > peer.outbound_asks:
            self._lister.ask(asks[peer.outbound_asks :])
            self._step_at = now
            peer.outbound_asks = len(asks)
            wait_s = _ASKED_S + len(own.flows) * _ROUND_RECORD_S
            self._due_at = min(self._due_at, now + wait_s)

    def _judged(self, peer: Peer, ack: Ack, now: float) -> None:
        """An unclean verdict proves nothing: what was proven before grows old."""
        if ack.verdict == UNCLEAN:
            if self.repairs:
                self._due_at = min(self._due_at, now + _RETRY_S)
            return
        peer.outbound_at = now
        if ack.verdict == DIFFERENT:
            if peer.outbound_equal:
                self.differences += 1
            if self.repairs:
                self._locate(peer, ack.buckets, now)
        else:
            peer.outbound_differs_at = -1.0
        peer.outbound_equal = ack.verdict == EQUAL
        peer.outbound_buckets = ack.buckets

    def _locate(self, peer: Peer, buckets: int, now: float) -> None:
        """List what differs; what stays different for long is looked for ever less."""
        if peer.outbound_differs_at < 0:
            peer.outbound_differs_at = peer.locate_at = now
        if now < peer.locate_at:
            return
        elapsed_s = now - peer.outbound_differs_at
        if elapsed_s >= _LOCATION_S:
            peer.locate_at = now + min(elapsed_s, _RESYNC_WAIT_LIMIT_S)
        self._due_at = min(self._due_at, now + _RETRY_S)
        if buckets and self._lister.idle:
            self._lister.want(buckets)
            self._step_at = now

    # As a receiver

    def marked(self, peer: Peer, marker: int, digest: bytes, now: float) -> bool:
        """A peer's proof; True if the verdict should be heard at once."""
        peer.audit.routine(peer, now)
        self._step_at = min(self._step_at, peer.audit.due_at)
        peer.verdict_marker = marker
        peer.buckets = buckets = peer.held.differing(digest)
        peer.compared = True
        peer.inquiry.begin_round()
        peer.asks = ()
        if peer.audit.requested:
            peer.verdict = UNCLEAN  # until all of it is counted
            return False
        if not buckets:
            return self._equal(peer, now)
        if not self._complete(peer) or not peer.audit.locate(peer, buckets, now):
            self._step_at = min(self._step_at, peer.audit.due_at)
            peer.verdict = UNCLEAN
            return False
        buckets = peer.buckets = peer.held.differing(digest)  # counted afresh
        if not buckets:
            return self._equal(peer, now)
        peer.verdict = DIFFERENT
        peer.inbound_equal, peer.inbound_at = False, now
        if self.repairs:
            self._incident(peer, now)
        return True

    def _equal(self, peer: Peer, now: float) -> bool:
        peer.audit.located()
        peer.verdict = EQUAL
        news = not peer.inbound_equal
        peer.inbound_equal = True
        peer.inbound_at = peer.proven_at = now
        self._repaired(peer, now)
        return news

    def _complete(self, peer: Peer) -> bool:
        """Do we miss nothing of what the peer has told so far?"""
        inbox = peer.inbox
        whole = peer.swept and not peer.full
        return whole and not inbox.lost and inbox.wants == SATISFIED

    def _incident(self, peer: Peer, now: float) -> None:
        """A difference: say so once; ask for everything if it stays."""
        if peer.incident_at < 0:
            peer.incident_at = now
            peer.incident_repaired = 0
            peer.incidents += 1
            self.differences += 1
            self._say(
                "warning",
                f"our copy of {peer.name}'s table differs in {peer.buckets.bit_count()}"
                f" of {BUCKETS} buckets: the records are located and told again",
            )
        elif now >= peer.incident_at + _LOCATION_S:
            self._resync(peer, now)

    def _resync(self, peer: Peer, now: float) -> None:
        """The last resort; each one without success doubles the time to the next."""
        if now < peer.pulled_at + peer.pull_wait_s:
            return
        peer.pulled_at = now
        peer.pull_wait_s = min(2 * peer.pull_wait_s, _RESYNC_WAIT_LIMIT_S)
        self._say("warning", f"{peer.name} is still different: everything is asked for")
        peer.inbox.want_resync()

    def _repaired(self, peer: Peer, now: float) -> None:
        if peer.incident_at < 0:
            return
        self._say(
            "info",
            f"our copy of {peer.name}'s table is equal again: {peer.incident_repaired} "
            f"records repaired in {now - peer.incident_at:.1f} s",
        )
        peer.incident_at = -1.0
        peer.pull_wait_s = _LOCATION_S

    def listed(
        self,
        peer: Peer,
        inventory: Inventory,
        payload_bytes: int,
        now: float,
    ) -> bool:
        """A peer's inventory; True if it should hear at once what we ask for.

        `payload_bytes` are those of a HELLO.
        """
        if peer.verdict != DIFFERENT or not self._complete(peer):
            return False
        dropped = peer.inquiry.compare(peer, inventory, peer.buckets)
        peer.unlisted += dropped
        asked, peer.asks = peer.asks, peer.inquiry.first_asks(payload_bytes)
        found = len(dropped) + len(peer.asks) - len(asked)
        peer.repaired += found
        peer.incident_repaired += found
        if len(peer.inquiry.asks) > FAR_APART:
            self._resync(peer, now)
        return found > 0

    def heard(self, peer: Peer, hello: Hello, now: float) -> None:
        """A peer's HELLO: does it want us to prove ourselves?"""
        if hello.compare > peer.compare:
            peer.compare = hello.compare
            peer.audit.request(peer, now)
            self._due_at = min(self._due_at, now)
            self._step_at = now

    def tick(
        self, peers: dict[str, Peer], outbox: Outbox, own: Own, now: float
    ) -> None:
        """A piece of what counts and lists take; a proof that is old is none."""
        self._lister.step(outbox, own, now)
        due = [peer for peer in peers.values() if peer.audit.due_at <= now]
        if due:
            peer = min(due, key=lambda peer: peer.audit.due_at)
            peer.audit.step(peer, now)
        self._step_at = min((p.audit.due_at for p in peers.values()), default=math.inf)
        if self._lister.busy:
            self._step_at = now
        for peer in peers.values():
            if now - peer.inbound_at > _PROOF_S:
                peer.inbound_equal = False
            if now - peer.outbound_at > _PROOF_S:
                peer.outbound_equal = False
