"""What was own before, and may be a copy of what another node has.

In: the own flows at the start and whenever somebody took over, the peers. Out: is this
own flow a copy now? The rule (docs/adr/0012): of two nodes at most one gives a flow up.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from syncd.flows.own import Own
from syncd.replication.peer import Peer
from syncd.replication.roles import PRIMARY, Roles

FORMER_S = 120.0  # in which what was own before may turn out to be a copy
ELDER_FRAMES = 20  # who has sent so many was there before us


class Former:
    """Of one node; a body that an event has replaced since is not a former one."""

    __slots__ = (
        "_claims",
        "_elders",
        "_last_role",
        "_node",
        "_own",
        "_peers",
        "_roles",
        "_until",
        "_untouched",
        "bodies",
    )

    def __init__(
        self, node: str, own: Own, peers: Mapping[str, Peer], roles: Roles
    ) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self._node = node
        self._own = own
        self._peers = peers
        self._roles = roles
        self._until = -math.inf  # nothing was noted yet
        self._claims: dict[str, int] = {}  # of the peers, by name
        self._elders: dict[str, tuple[int, bool]] = {}  # name -> epoch, elder?
        self._untouched: dict[bytes, bytes] = {}  # the same bodies, for longer
        self._last_role = roles.role

    def look(self, now: float) -> bool:
        """Note what is own, if it is time; was it?"""
        for peer in self._peers.values():
            self._meet(peer)
        before, self._last_role = self._last_role, self._roles.role
        retired = before == PRIMARY != self._last_role
        if self._overtaken() or retired or self._until == -math.inf:
            self.bodies = self._untouched = dict(self._own.flows.bodies)
            self._until = now + FORMER_S
            return True
        if self.bodies and now >= self._until:
            self.bodies = {}
            self._untouched = dict(self.left_alone(self._untouched.items()))
        return False

    def left_alone(
        self, records: Iterable[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Of these own records those that no event has changed since they were noted.

        What packets have changed here since is newer than any peer's word.
        """
        get, own = self._untouched.get, self._own.flows.bodies.get
        return ((key, body) for key, body in records if get(key) is body is own(key))

    def _overtaken(self) -> bool:
        """Has somebody whom we knew before taken over now?"""
        claims = self._claims
        highest = max([self._roles.claim, *claims.values()])
        overtaken = any(
            peer.claim > highest and peer.name in claims
            for peer in self._peers.values()
        )
        for peer in self._peers.values():
            if peer.inbox.epoch:
                claims[peer.name] = max(claims.get(peer.name, 0), peer.claim)
        return overtaken

    def _meet(self, peer: Peer) -> None:
        """Which of the two of us was there first?"""
        epoch = peer.inbox.epoch
        known = self._elders.get(peer.name)
        if epoch and (known is None or known[0] != epoch):
            elder = known is None and (
                peer.inbox.highest >= ELDER_FRAMES or peer.name < self._node
            )
            self._elders[peer.name] = (epoch, elder)

    def is_copy(self, key: bytes, ours: bytes, peer: Peer, body: bytes) -> bool:
        """Is this own flow left over, and belongs to the peer that tells it now?"""
        if self.bodies.get(key) is not ours or self._roles.role == PRIMARY:
            return False
        if ours[: ours[0]] != body[: ours[0]]:
            return False
        if peer.claim != self._roles.claim:
            return peer.claim > self._roles.claim
        return self._elders.get(peer.name, (0, False))[1]
