"""Who stands for the traffic: roles, claims, and ends that are held back.

In: promote, demote, fault, and what the peers say of their roles. Out: whether this
node's table is authoritative, and which peers' tables a promotion commits.

The rules, which need no synchronised clocks:
- A claim is a Lamport counter. A promotion takes the highest claim heard of plus one.
  So does a primary when who took over from it has given that back, and nobody was
  promoted for a while: what it has now is newer than what was taken.
- A node is an owner while it is primary, and after a demotion until it hears a claim
  above its own: somebody took its traffic over. A node that was never promoted has
  claim 0; a cluster that uses no roles works, everybody tells everything.
- An owner that is not primary holds ends back: when the address leaves, the kernel
  destroys masqueraded flows (nf_nat_masquerade.c); they must not vanish at the peer.
- A promotion commits a peer that is an owner or has claim 0, once per claim. What was
  taken of a peer counts no more when it is heard as primary since: its traffic goes on.
  Of a key that two peers have, the one with the higher claim counts.
- Who had given its role back before a primary claimed anew stays such a peer there:
  nobody can tell which of the two had the traffic; to lose flows is worse than to keep
  some that have ended.
"""

import math
from collections.abc import Collection, Iterable
from itertools import groupby

from syncd.flows.own import Own
from syncd.flows.table import Table
from syncd.replication.hello import CLAIM_LIMIT
from syncd.replication.peer import NOT_TAKEN, Peer

RECLAIM_S = 30.0  # in which the next node is promoted, if one is to be
PRIMARY = "primary"
BACKUP = "backup"
FAULT = "fault"


class Roles:
    """This node's role and claim."""

    __slots__ = ("_alone_since", "_forgotten", "claim", "holding", "role")

    def __init__(self) -> None:
        self.role = BACKUP
        self.claim = 0
        self.holding = False
        self._forgotten = 0  # the highest claim of peers that are forgotten
        self._alone_since = math.inf  # primary, and whoever took over gave it back

    def forget(self, peer: Peer) -> None:
        """A peer left for good; what it took over it took over all the same."""
        self._forgotten = max(self._forgotten, peer.claim)

    def _highest(self, peers: Iterable[Peer]) -> int:
        """The highest claim that others ever had."""
        return max([self._forgotten, *(peer.claim for peer in peers)])

    def owner(self, peers: Iterable[Peer]) -> bool:
        """Does this node's table stand for traffic that nobody took over?"""
        owns = self.claim > 0 and self.claim >= self._highest(peers)
        return self.role == PRIMARY or owns

    def overtaken(self, peers: Iterable[Peer]) -> bool:
        """Does the traffic that this node stood for belong to somebody else now?

        Its ends are true then, even those that come with an address: to put them into
        a kernel again is to bring back what the new owner has ended since.
        """
        return 0 < self.claim < self._highest(peers)

    def promote(self, peers: Iterable[Peer], own: Own) -> None:
        """Become primary; repeated, it changes nothing."""
        if self.role == PRIMARY:
            return
        self.role = PRIMARY
        self._claim_anew(peers)
        self.holding = False
        own.flows.release()
        own.expectations.release()

    def _claim_anew(self, peers: Iterable[Peer]) -> None:
        self.claim = min(1 + max(self.claim, self._highest(peers)), CLAIM_LIMIT - 1)

    def review(self, peers: Collection[Peer], now: float) -> bool:
        """Claim anew if it is time; was it? `now` is in seconds, monotonic."""
        given_back = any(p.role != PRIMARY and p.claim >= self.claim for p in peers)
        overtaken = any(p.role == PRIMARY and p.claim > self.claim for p in peers)
        if self.role != PRIMARY or overtaken or not given_back:
            self._alone_since = math.inf
            return False
        self._alone_since = min(self._alone_since, now)
        if now < self._alone_since + RECLAIM_S:
            return False
        for peer in peers:
            peer.given_back = peer.given_back or peer.claim >= self.claim
        self._claim_anew(peers)
        return True

    def retire(self, role: str, peers: Iterable[Peer], own: Own) -> None:
        """Demotion or fault: hold ends back if this node stood for traffic."""
        for peer in peers:
            if peer.claim == 0:
                peer.taken = NOT_TAKEN  # it uses no roles: its state counts anew
        if self.role == PRIMARY:
            self.holding = True
            own.flows.hold()
            own.expectations.hold()
        self.role = role

    def heard(self, claim: int, own: Own) -> int:
        """A peer's claim; one above ours ends the holding. Ends carried out."""
        if not self.holding or claim <= self.claim:
            return 0
        self.holding = False
        return own.flows.release() + own.expectations.release()


def sources(peers: Iterable[Peer]) -> list[Peer]:
    """The peers whose tables a promotion commits, the highest claim first."""
    worthy = [
        peer
        for peer in peers
        if (peer.owner or peer.claim == 0 or peer.given_back)
        and (
            peer.taken != (peer.inbox.epoch, peer.claim)
            or (peer.live and peer.role == PRIMARY)
        )
    ]
    return sorted(worthy, key=lambda peer: (-peer.claim, peer.name))


def ranked_flows(
    peers: list[Peer], claim: int
) -> tuple[list[tuple[Table, bool]], list[int]]:
    """Tables of flows, the highest claim first; peers of one claim share a rank.

    What is kept of flows that died with an address counts below their tables.
    """
    told: list[tuple[Table, bool]] = []
    ranks: list[int] = []
    for at, group in groupby(peers, key=lambda peer: peer.claim):
        same = list(group)
        told += [(peer.flows, at < claim) for peer in same]
        told += [(peer.departed, at < claim) for peer in same]
        ranks += [2 * at + 1] * len(same) + [2 * at] * len(same)
    return told, ranks
