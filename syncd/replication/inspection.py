"""Does this kernel hold what the peers tell? Somebody asks, and it is looked through.

In: a dump of the kernel's flows, the peers' tables. Out: how many copies were
different, and how many still are. The rule: what the dump makes doubtful is left to the
standby, which asks the kernel for it and puts it right.
"""

from collections.abc import Collection, Iterable, Mapping

from syncd.flows import restore
from syncd.flows.doubts import Doubts
from syncd.flows.own import Own
from syncd.flows.planting import same_copy
from syncd.flows.record import EXPECTATION, Record
from syncd.replication.peer import Peer
from syncd.replication.standby import Standby
from syncd.replication.told import holds_until, told_of


class Inspection:
    """One look at all copies."""

    def __init__(self, standby: Standby, own: Own, peers: Mapping[str, Peer]) -> None:
        self.copies = 0  # there are when it begins
        self._standby = standby
        self._peers = peers
        self._own = own
        self._doubts = self._doubt({})

    def begin(self) -> None:
        """A dump of the flows is about to begin."""
        planted = self._own.planted
        self.copies = len(planted)
        self._doubts = self._doubt(planted)
        self._standby.findings.open()
        self._standby.audit([key for key in planted if key[6] == EXPECTATION])

    def close(self) -> None:
        """It is over, or given up."""
        self._standby.findings.close()

    @property
    def compared(self) -> int:
        """Flows that the kernel showed and that somebody tells."""
        return self._doubts.compared

    @property
    def untold(self) -> int:
        """Copies in the kernel that no peer tells any more: they run out."""
        return self._doubts.untold

    def note(self, limit: int) -> bool:
        """Note what the dump has to show; is there more to do?"""
        return self._doubts.note(limit)

    def see(self, records: list[Record], now: float) -> None:
        """A part of the dump, just read."""
        self._standby.audit(self._doubts.look(records, self._told(records), now))

    def unseen(self, limit: int) -> bool:
        """Look at some of what a complete dump did not show; is there more?"""
        keys = self._doubts.unseen(limit)
        self._standby.audit(keys)
        return bool(keys)

    def miss(self, keys: Collection[bytes], now: float) -> None:
        """Of these keys that peers tell, those that were never planted are, now."""
        self._standby.miss(keys, now)

    def counts(self, now: float) -> tuple[int, int]:
        """How many were different, and how many of them still are."""
        peers, own = self._peers.values(), self._own.flows.bodies

        def wanted(key: bytes) -> bool:
            if key in own:
                return False
            told = told_of(peers, key)
            return told is not None and holds_until(key, told) > now

        return self._standby.findings.counts(wanted)

    def _doubt(self, planted: dict[bytes, bytes]) -> Doubts:
        return Doubts(planted, self._standby.register.ends, self._differ)

    def _told(self, records: Iterable[Record]) -> dict[bytes, bytes]:
        """What is told of these, and of others maybe."""
        tellers = [peer for peer in self._peers.values() if peer.flows.bodies]
        if len(tellers) == 1:
            return tellers[0].flows.bodies
        found = {}
        for record in records:
            told = told_of(tellers, record[1])
            if told is not None:
                found[record[1]] = told[1]
        return found

    def _differ(self, key: bytes, told: bytes, held: bytes) -> bool:
        mask = self._standby.masks.body
        return not (
            restore.same_tuples(told, held)
            and same_copy(mask(key, told), mask(key, held))
        )
