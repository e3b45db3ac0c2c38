"""Going through what the peers tell: is all of it in this kernel, or in hand?

In: the peers' tables, what is planted, own and refused. Out: keys that were lost sight
of, to be touched or looked at. The rule: this makes up for what went wrong elsewhere,
so it never hurries, unless somebody asks. It begins anew when a lost peer is back: of
what it tells as before, some copies have run out meanwhile. So it does after a
demotion, with what is own, too: peers may have seen more of it meanwhile.
"""

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from itertools import islice

from syncd.flows.own import Own
from syncd.flows.planted import Planted
from syncd.replication.peer import Peer, PeerState
from syncd.replication.refused import Refused
from syncd.replication.roles import PRIMARY, Roles
from syncd.replication.told import Told, holds_until, told_of

_AT_ONCE = 4096
_INTERVAL_S = 0.1


class Gleaning:
    """Of one warm standby."""

    __slots__ = (
        *("_keys", "_lost", "_own", "_own_too", "_peers", "_refused", "_register"),
        *("_role", "_roles", "_urgent", "at"),
    )

    def __init__(
        self,
        own: Own,
        peers: Mapping[str, Peer],
        register: Planted,
        refused: Refused,
        roles: Roles,
    ) -> None:
        self.at = 0.0  # when the next keys are looked through
        self._own = own
        self._peers = peers
        self._register = register
        self._refused = refused
        self._keys: Iterator[bytes] = iter(())
        self._lost: set[str] = set()  # peers that have not come back in step
        self._urgent = False  # is a promotion to wait for this round?
        self._own_too = False  # does this round touch what is own and told?
        self._roles = roles
        self._role = roles.role  # when this was looked at last

    def look(
        self, former: Mapping[bytes, bytes], adopting: Container[bytes], now: float
    ) -> tuple[list[bytes], list[bytes]]:
        """The next keys to touch, and to look at."""
        if self._is_back():
            self._keys, self._urgent, self.at = self.all_told(), True, now
        before, self._role = self._role, self._roles.role
        if before == PRIMARY != self._role:
            self._keys, self._own_too, self.at = self.all_told(), True, now
        if now < self.at:
            return [], []
        touched, looks, count = self._portion(former, adopting, now, _AT_ONCE)
        if count:
            self.at = now + _INTERVAL_S
        else:
            self._keys, self._urgent = self.all_told(), False
            self._own_too = False
            self.at = now + self._register.late_s
        return touched, looks

    def hurry(
        self, former: Mapping[bytes, bytes], adopting: Container[bytes], now: float
    ) -> tuple[list[bytes], list[bytes]]:
        """All that is left of a round that matters now."""
        if not self._urgent:
            return [], []
        self._urgent = False
        touched, looks, _ = self._portion(former, adopting, now, None)
        return touched, looks

    def holds(self, key: bytes, told: Told, now: float) -> bool:
        """Is there to be a copy now? What a lost peer tells is looked through again."""
        if told[0].live:
            return True
        self._lost.add(told[0].name)
        return holds_until(key, told) > now

    def _is_back(self) -> bool:
        """Is a peer in step again that was lost?"""
        back = False
        for peer in self._peers.values():
            if not peer.live:
                self._lost.add(peer.name)
            elif peer.name in self._lost and peer.state is PeerState.IN_STEP:
                self._lost.discard(peer.name)
                back = True
        return back

    def _portion(
        self,
        former: Mapping[bytes, bytes],
        adopting: Container[bytes],
        now: float,
        limit: int | None,
    ) -> tuple[list[bytes], list[bytes], int]:
        """Keys to touch, keys to look at, and how many were looked through."""
        own, register, count = self._own, self._register, 0
        touched: list[bytes] = []
        looks: list[bytes] = []
        for key in islice(self._keys, limit):
            count += 1
            if register.get(key) is not None:
                if register.ended(key, now + register.late_s):
                    looks.append(key)  # it was lost sight of
            elif key in adopting or key in self._refused:
                continue
            elif (
                self._own_too
                or not own.has(key)
                or former.get(key) is own.flows.bodies.get(key, b"")
            ):
                touched.append(key)
        return touched, looks, count

    def all_told(self) -> Iterator[bytes]:
        """The keys of everything that is told, as it is when its table's turn comes."""
        for peer in tuple(self._peers.values()):
            for table in (peer.flows, peer.expectations):
                yield from tuple(table.bodies)

    def missing(
        self,
        keys: Collection[bytes],
        in_hand: Container[bytes],
        wants: Callable[[bytes, bytes], bool],
        now: float,
    ) -> list[bytes]:
        """Those that should be in this kernel, are not, and that nobody has in hand."""
        is_own, get, found = self._own.has, self._register.get, []
        for key in keys:
            if get(key) is not None or is_own(key):
                continue
            told = told_of(self._peers.values(), key)
            if (
                told is not None
                and key not in self._refused
                and key not in in_hand
                and holds_until(key, told) > now
                and wants(key, told[1])
            ):
                found.append(key)
        return found
