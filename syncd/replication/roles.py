"""Who stands for the traffic: roles, claims, and ends that are held back.

In: promote, demote, fault, and what the peers say of their roles. Out: whether this
node's table is authoritative, and which peers' tables a promotion commits.

The rules, which need no synchronised clocks:
- A claim is a Lamport counter. A promotion takes the highest claim heard of plus one;
  so does one of a primary from which somebody has taken over meanwhile.
- A node is an owner while it is primary, and after a demotion until it hears a claim
  above its own: somebody took its traffic over. A node that was never promoted has
  claim 0; a cluster that uses no roles works, everybody tells everything.
- An owner that is not primary holds ends back: when the address leaves, the kernel
  destroys masqueraded flows (nf_nat_masquerade.c); they must not vanish at the peer.
- A promotion commits a peer that is an owner, has claim 0, or was primary since its
  state was taken: its traffic went on, and to lose flows is worse than to keep some
  that have ended. All of these once, but a living primary each time.
- Of a key that two peers have, the one with the higher claim counts; of one that we
  have too, our state if our claim is above the peer's. Not if we gave our role away and
  the peer was primary long after that: for a while both were.
"""

import math
from collections.abc import Collection, Iterable
from itertools import groupby

from syncd.flows.own import Own
from syncd.flows.table import Table
from syncd.replication.hello import CLAIM_LIMIT, Hello
from syncd.replication.peer import NOT_TAKEN, Peer

OUTLIVED_S = 30.0  # after a demotion, in which the next node is promoted
PRIMARY = "primary"
BACKUP = "backup"
FAULT = "fault"


class Roles:
    """This node's role and claim."""

    __slots__ = ("_conceded", "_forgotten", "_retired_at", "claim", "holding", "role")

    def __init__(self) -> None:
        self.role = BACKUP
        self.claim = 0
        self.holding = False
        self._forgotten = 0  # the highest claim of peers that are forgotten
        self._conceded = 0  # the highest claim of others when the role was given away
        self._retired_at = math.inf  # when that was

    def forget(self, peer: Peer) -> None:
        """A peer left for good; what it took over it took over all the same."""
        self._forgotten = max(self._forgotten, peer.claim)

    def _highest(self, peers: Iterable[Peer]) -> int:
        """The highest claim that others ever had."""
        return max([self._forgotten, *(peer.claim for peer in peers)])

    def owner(self, peers: Iterable[Peer]) -> bool:
        """Does this node's table stand for traffic that nobody took over?"""
        owns = self.claim > 0 and self._highest(peers) <= self._standing
        return self.role == PRIMARY or owns

    @property
    def _standing(self) -> int:
        """Only a claim above this one takes over what was given away."""
        return max(self.claim, self._conceded)

    def overtaken(self, peers: Iterable[Peer]) -> bool:
        """Does the traffic that this node stood for belong to somebody else now?

        Its ends are true then, even those that come with an address: to put them into
        a kernel again is to bring back what the new owner has ended since.
        """
        return self.claim > 0 and self._standing < self._highest(peers)

    def promote(self, peers: Iterable[Peer], own: Own) -> None:
        """Become primary; repeated, it changes nothing unless somebody took over."""
        highest = self._highest(peers)
        if self.role == PRIMARY and highest <= self.claim:
            return
        self.role = PRIMARY
        self.claim = min(1 + max(self.claim, highest), CLAIM_LIMIT - 1)
        self._conceded = 0
        self.holding = False
        own.flows.release()
        own.expectations.release()

    def outlived_by(self, peer: Peer) -> bool:
        """Was it primary long after we gave our role away, whatever the claims say?"""
        outlived = peer.heard_at >= self._retired_at + OUTLIVED_S
        return self.role != PRIMARY == peer.role and outlived

    def above(self, peer: Peer) -> bool:
        """Is what we have newer than what this peer tells?"""
        return peer.claim < self.claim and not self.outlived_by(peer)

    def retire(self, role: str, peers: Collection[Peer], own: Own, now: float) -> None:
        """Demotion or fault: hold ends back if this node stood for traffic."""
        for peer in peers:
            if peer.claim == 0:
                peer.taken = NOT_TAKEN  # it uses no roles: its state counts anew
        if self.role == PRIMARY:
            self._retired_at = now
            later = [peer for peer in peers if peer.claim > self.claim]
            if not any(peer.role == PRIMARY for peer in later):  # nobody has it yet
                self._conceded = self._highest(peers)
            self.holding = True
            own.flows.hold()
            own.expectations.hold()
        self.role = role

    def heard(self, claim: int, own: Own) -> int:
        """A peer's claim; one above ours ends the holding. Ends carried out."""
        if not self.holding or claim <= self._standing:
            return 0
        self.holding = False
        return own.flows.release() + own.expectations.release()


def introduce(peer: Peer, hello: Hello, peers: Iterable[Peer]) -> None:
    """What the peer says of its role; `peers` are all that are known."""
    if hello.claim > peer.claim:  # it takes over from who has given his role away
        for other in peers:
            other.carried = other.carried and other.role == PRIMARY
    peer.role, peer.owner = hello.role, hello.owner
    if hello.role == PRIMARY:  # what it has is newer than what we took of it
        peer.taken, peer.carried = NOT_TAKEN, True
    if hello.claim >= peer.claim:
        peer.claim = hello.claim
        peer.was_primary = False


def sources(peers: Iterable[Peer]) -> list[Peer]:
    """The peers whose tables a promotion commits, the highest claim first."""
    worthy = [
        peer
        for peer in peers
        if (peer.owner or peer.claim == 0 or peer.carried)
        and (
            peer.taken != (peer.inbox.epoch, peer.claim)
            or (peer.live and peer.role == PRIMARY)
        )
    ]
    return sorted(worthy, key=lambda peer: (-peer.claim, peer.name))


def ranked_flows(
    peers: list[Peer], roles: Roles
) -> tuple[list[tuple[Table, bool]], list[int]]:
    """Tables of flows, the highest claim first; peers of one claim share a rank.

    What is kept of flows that died with an address counts below their tables.
    """
    told: list[tuple[Table, bool]] = []
    ranks: list[int] = []
    for at, group in groupby(peers, key=lambda peer: peer.claim):
        same = list(group)
        told += [(peer.flows, roles.above(peer)) for peer in same]
        told += [(peer.departed, roles.above(peer)) for peer in same]
        ranks += [2 * at + 1] * len(same) + [2 * at] * len(same)
    return told, ranks
