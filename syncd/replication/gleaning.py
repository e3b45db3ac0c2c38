"""Going through what the peers tell: is all of it in this kernel, or in hand?

In: the peers' tables, what is planted, own and refused. Out: keys that were lost sight
of, to be touched or looked at. The rule: this makes up for what went wrong elsewhere,
so it never hurries, unless somebody asks.
"""

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from itertools import islice

from syncd.flows.own import Own
from syncd.flows.planted import Planted
from syncd.replication.peer import Peer
from syncd.replication.refused import Refused
from syncd.replication.told import holds_until, told_of

_AT_ONCE = 4096
_INTERVAL_S = 0.1


class Gleaning:
    """Of one warm standby."""

    __slots__ = ("_keys", "_own", "_peers", "_refused", "_register", "at")

    def __init__(
        self,
        own: Own,
        peers: Mapping[str, Peer],
        register: Planted,
        refused: Refused,
    ) -> None:
        self.at = 0.0  # when the next keys are looked through
        self._own = own
        self._peers = peers
        self._register = register
        self._refused = refused
        self._keys: Iterator[bytes] = iter(())

    def look(
        self, former: Mapping[bytes, bytes], adopting: Container[bytes], now: float
    ) -> tuple[list[bytes], list[bytes]]:
        """The next keys to touch, and to look at."""
        touched: list[bytes] = []
        looks: list[bytes] = []
        if now < self.at:
            return touched, looks
        own, register, count = self._own, self._register, 0
        for key in islice(self._keys, _AT_ONCE):
            count += 1
            if register.get(key) is not None:
                if register.ended(key, now + register.late_s):
                    looks.append(key)  # it was lost sight of
            elif key in adopting or key in self._refused:
                continue
            elif key in own.flows.bodies:
                if former.get(key) is own.flows.bodies[key]:
                    touched.append(key)
            elif key not in own.expectations.bodies:
                touched.append(key)
        if count:
            self.at = now + _INTERVAL_S
        else:
            self._keys = self.all_told()
            self.at = now + register.late_s
        return touched, looks

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
        own, get, found = self._own, self._register.get, []
        flows, expectations = own.flows.bodies, own.expectations.bodies
        for key in keys:
            if get(key) is not None or key in flows or key in expectations:
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
