"""Is what is summed up with each change what is there? A copy is counted afresh.

In: a peer's tables and their digest, the time. Out: sums that are those of the records,
and the keys of buckets that differ. A record that changed without anybody's doing (a
bug, a bad memory cell) shows by that. The rule of the room: a small copy is counted at
once, a large one in pieces, so that no step holds the others up.

A large copy is counted all the time, in half a percent of a core; as fast as the pieces
go when somebody asks for it, or when it turned out to be different.
"""

import math
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from syncd.flows.digest import ALL_BUCKETS, named
from syncd.replication.shelves import PIECE, Shelves

if TYPE_CHECKING:
    from syncd.replication.peer import Peer

_AT_ONCE = 8192  # records that are counted in one go, about 1 ms
_RECORD_S = 5e-5  # that a count in no hurry takes for each record
_STEPS = 64  # of a count, beside those that find the keys: one for each bucket
_RECENT_S = (0.2, 2e-6)  # in all and for each record: a count asked for is not repeated
_AGAIN_S = (2.0, 2e-5)  # the same: what is still different is located once more


class Why(Enum):
    """What a count is for; the later ones go before the earlier."""

    ROUTINE = 1
    LOCATION = 2  # the keys of these buckets are needed afterwards
    REQUEST = 3


class Audit:
    """The count of one peer's copy."""

    __slots__ = (
        "_again_at",
        "_counted_at",
        "_left",
        "_pace_s",
        "_why",
        "due_at",
        "shelves",
    )

    def __init__(self) -> None:
        self.due_at = math.inf  # of the next step
        self.shelves: Shelves | None = None
        self._why = Why.ROUTINE
        self._left = 0  # buckets that are still to be counted
        self._pace_s = 0.0  # between two steps
        self._again_at = 0.0  # when a location is too old to be believed
        self._counted_at = -math.inf  # when the latest one that was asked for began

    @property
    def requested(self) -> bool:
        """Is the count going on that somebody has asked for?"""
        return self._why is Why.REQUEST and self.shelves is not None

    def routine(self, peer: "Peer", now: float) -> None:
        """Count a small copy; of a large one begin the next count."""
        if _size(peer) <= _AT_ONCE:
            self._counted_at = now
            if self.shelves is None:
                peer.held.recount_all((peer.flows.bodies, peer.expectations.bodies))
        elif self.shelves is None:
            self._begin(peer, ALL_BUCKETS, Why.ROUTINE, now)

    def request(self, peer: "Peer", now: float) -> None:
        """Count all of it, now; a count that has just been made will do."""
        total_s, record_s = _RECENT_S
        if now - self._counted_at >= total_s + record_s * _size(peer):
            self._counted_at = now
            self._begin(peer, ALL_BUCKETS, Why.REQUEST, now)

    def locate(self, peer: "Peer", buckets: int, now: float) -> bool:
        """Count these buckets and keep their keys; are they there?

        A record may change in silence after its bucket was counted, and the next change
        to it then leaves a wrong sum: so a small copy is counted with each comparison
        here too, and a large one again if it stays different.
        """
        shelves = self.shelves
        if self._why is not Why.LOCATION or shelves is None:
            self._locate(peer, buckets, now)
        elif buckets & ~shelves.buckets:
            self._locate(peer, buckets | shelves.buckets, now)
        elif not self._left and (_size(peer) <= _AT_ONCE or now >= self._again_at):
            self._locate(peer, buckets, now)
        return not self._left

    def _locate(self, peer: "Peer", buckets: int, now: float) -> None:
        total_s, record_s = _AGAIN_S
        self._again_at = now + total_s + record_s * _size(peer)
        self._begin(peer, buckets, Why.LOCATION, now)

    def located(self) -> None:
        """The copy is equal: the keys are not needed any more."""
        if self._why is Why.LOCATION:
            self._end()

    def step(self, peer: "Peer", now: float) -> None:
        """Find some keys, or count one bucket."""
        shelves = self.shelves
        self.due_at = now + self._pace_s
        if shelves is None:
            self.due_at = math.inf
        elif not shelves.ready:
            shelves.step()
        elif self._left:
            bucket = (self._left & -self._left).bit_length() - 1
            self._left &= self._left - 1
            records = _records(peer, shelves.keys(bucket))
            peer.held.recount(named(records), 1 << bucket)
            if self._why is not Why.LOCATION:
                shelves.drop(bucket)
        if not self._left:
            if self._why is Why.LOCATION:
                self.due_at = math.inf
            else:
                self._end()

    def _begin(self, peer: "Peer", buckets: int, why: Why, now: float) -> None:
        self._end()
        keys = list(peer.flows.bodies)
        keys += peer.expectations.bodies
        self._pace_s = 0.0
        if why is Why.ROUTINE:
            steps = len(keys) // PIECE + _STEPS
            self._pace_s = len(keys) * _RECORD_S / steps
        self._why, self._left = why, buckets
        self.shelves = Shelves(peer.held, keys, buckets)
        self.due_at = now
        if len(keys) <= _AT_ONCE:
            while self._left:
                self.step(peer, now)

    def _end(self) -> None:
        if self.shelves is not None:
            self.shelves.close()
        self.shelves, self._left = None, 0
        self._why, self.due_at = Why.ROUTINE, math.inf


def _records(peer: "Peer", keys: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """What we hold under these keys."""
    for table in (peer.flows.bodies, peer.expectations.bodies):
        for key in keys & table.keys():
            yield key, table[key]


def _size(peer: "Peer") -> int:
    return len(peer.flows) + len(peer.expectations)
