"""Could this node take over now? And if not: what is missing, and for how long already.

In: the peers as they stand. Out: yes or no, and a reason to show. The rule of the room:
nobody waits for ever. What is missing makes a node unready for a bounded time; when
that is over it is ready although something is missing, and says what.
"""

from collections.abc import Callable, Iterable

from syncd.flows.digest import BUCKETS
from syncd.replication.peer import Peer, PeerState


class Readiness:
    """How long this node has been waiting for what."""

    __slots__ = (
        *("_started_at", "_waiting_since", "beside", "overdue", "silence_s"),
        "timeout_s",
    )

    def __init__(self, now: float, silence_s: float, timeout_s: float) -> None:
        # What else is missing: a warm standby may be behind with its own kernel.
        self.beside: Callable[[float], str] = _nothing
        self.silence_s = silence_s
        self.timeout_s = timeout_s
        self.overdue = False  # is the waiting time over?
        self._started_at = now
        self._waiting_since = now

    def restart(self, now: float) -> None:
        """What was known may be out of date: wait for the peers as at the start."""
        self._started_at = self._waiting_since = now

    def look(self, peers: Iterable[Peer], now: float) -> str:
        """What is missing at this moment, or nothing; keeps the time."""
        lacking = self.lacking(peers, now)
        if not lacking:
            self._waiting_since = now
        self.overdue = now - self._waiting_since >= self.timeout_s
        return lacking

    def lacking(self, peers: Iterable[Peer], now: float) -> str:
        """What is missing at this moment, or nothing."""
        known = list(peers)
        refused = [
            f"{peer.name} is refused"
            for peer in known
            if peer.state is PeerState.REFUSED and now - peer.heard_at < self.silence_s
        ]
        reasons = refused + [found for peer in known if (found := _lacking(peer))]
        if behind := self.beside(now):
            reasons.append(behind)
        alone = not any(peer.live for peer in known)
        if alone and not reasons and now - self._started_at < self.silence_s:
            return "no peer was heard yet"
        return ", ".join(reasons)


def _lacking(peer: Peer) -> str:
    """Why this peer's table is not here in full, or nothing."""
    if not peer.live:
        if peer.inbox.epoch and not peer.swept:
            return f"{peer.name} was lost before all of its table was here"
        return ""
    if peer.state is not PeerState.IN_STEP:
        return f"{peer.name} is {peer.state.value}"
    if peer.verified or not peer.provable:
        return ""
    differing = peer.differing_buckets
    if differing:
        return f"{peer.name} differs in {differing} of {BUCKETS} buckets"
    return f"{peer.name} is not verified"


def _nothing(_now: float) -> str:
    return ""
