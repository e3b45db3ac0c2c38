"""What we tell the peers: numbering, packing to the MTU, what is unacknowledged.

In: the own tables with their change marks, and what peers acknowledge. Out: DATA
frames, and, for each frame that a peer says is lost, new marks on its keys. The rule
of the room: a frame is never kept, only the keys that it carried; what leaves is
always today's state.

A resync is a pass over all keys, sent beside the marks under the same window. It is
complete for a peer when that peer has acknowledged everything up to a barrier: the
last frame that was sent when the pass was at its end and all marks of that moment had
left. A frame lost below the barrier takes the barrier away until its keys have gone out
again.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from syncd.errors import FrameError
from syncd.flows.digest import Digest
from syncd.flows.own import Own
from syncd.flows.table import OwnTable
from syncd.replication.frame import Coder, Data, Inventory, Numbered

_SAFE_SHARE = 0.93  # of a frame that we dare to fill by estimate
_RECORDS_LIMIT = 512  # of one frame
_UNHEARD_AT_ONCE = 8192  # marks that are forgotten when nobody listens, some 2 ms
_NO_BARRIER = -1
# In place of the keys of a frame that one peer lost: another one needs no new marks.
_MARKED_AGAIN: tuple[Sequence[bytes], Sequence[bytes]] = ((), [])


class Pass:
    """One walk over all keys, for the peers that wanted it when it began."""

    __slots__ = ("barriers", "closed", "expectations", "flows", "number", "opened")

    def __init__(self, number: int, own: Own, wanting: Iterable[str]) -> None:
        self.number = number
        self.flows = list(own.flows.bodies)
        self.expectations = list(own.expectations.bodies)
        self.flows.reverse()
        self.expectations.reverse()
        self.opened = False
        self.closed = False  # was it at its end, and what was marked then noted?
        self.barriers = dict.fromkeys(wanting, _NO_BARRIER)

    @property
    def at_end(self) -> bool:
        return self.opened and not self.flows and not self.expectations


class Outbox:
    """Numbers, window and packing of one node's frames."""

    __slots__ = (
        "_coder",
        "_flow_bytes",
        "_service_count",
        "acked",
        "completed",
        "number",
        "oversized",
        "payload_bytes",
        "running",
        "services",
        "told",
        "told_records",
        "tracked",
        "unacked",
        "window_frames",
    )

    def __init__(self, coder: Coder, window_frames: int, payload_bytes: int) -> None:
        self._coder = coder
        self._flow_bytes = 48.0  # of one record in a frame, learned
        self._service_count = 0
        self.number = 0  # of the last frame sent
        self.unacked: dict[int, tuple[Sequence[bytes], Sequence[bytes]]] = {}
        self.acked: dict[str, int] = {}  # live peer -> highest number it acknowledged
        self.services: dict[str, int] = {}  # live peer -> number of our service
        self.running: Pass | None = None
        self.completed: dict[str, int] = {}  # peer -> pass that it was told in full
        self.window_frames = window_frames
        self.payload_bytes = payload_bytes
        self.tracked = True  # else only the frames of a running pass are
        self.oversized = 0  # records that no frame can carry
        self.told_records = 0  # in all frames
        self.told = Digest()  # over what the frames have told so far

    def join(self, peer: str) -> None:
        """A peer is live: from the next frame on it has to acknowledge."""
        self.acked[peer] = self.number
        self.services[peer] = self._service_count = self._service_count + 1

    def renew(self, peer: str) -> None:
        """Begin the service anew: the peer will want everything again."""
        self.services[peer] = self._service_count = self._service_count + 1
        self.completed.pop(peer, None)

    def suspend(self, peer: str) -> None:
        """Wait for this peer no longer; it knows that it misses everything."""
        self.leave(peer)
        self.services[peer] = self._service_count = self._service_count + 1

    def leave(self, peer: str) -> None:
        """A peer is gone: nothing waits for it any more."""
        self.acked.pop(peer, None)
        self.services.pop(peer, None)
        self.completed.pop(peer, None)
        if self.running is not None:
            self.running.barriers.pop(peer, None)
            if not self.running.barriers:
                self.running = None
        self._forget_acknowledged()

    @property
    def floor(self) -> int:
        """The lowest number that somebody may still miss."""
        return next(iter(self.unacked), self.number + 1)

    @property
    def window_open(self) -> bool:
        return len(self.unacked) < self.window_frames

    def begin_pass(self, number: int, own: Own, wanting: Iterable[str]) -> None:
        """Start a resync for these peers."""
        self.running = Pass(number, own, wanting)

    def acknowledge(
        self, peer: str, highest: int, lost: Sequence[tuple[int, int]], own: Own
    ) -> bool:
        """A peer's word; marks the keys of its lost frames again. True if it is new."""
        before = self.acked.get(peer)
        if before is None or highest <= before or highest > self.number:
            return False
        for first, last in lost:
            for number in range(max(first, before + 1), min(last, highest) + 1):
                self._mark_again(peer, number, own)
        self.acked[peer] = highest
        self._forget_acknowledged()
        return True

    def _mark_again(self, peer: str, number: int, own: Own) -> None:
        keys = self.unacked.get(number)
        if keys is None:
            return
        own.flows.mark_again(keys[0])
        own.expectations.mark_again(keys[1])
        running = self.running
        if running is not None and peer in running.barriers:
            running.barriers[peer] = _NO_BARRIER
            if keys is not _MARKED_AGAIN and not keys[0] and not keys[1]:
                running.opened = False  # it carried nothing but the pass itself
        if keys[0] or keys[1]:
            self.unacked[number] = _MARKED_AGAIN

    def _forget_acknowledged(self) -> None:
        if not self.acked:
            self.unacked.clear()
            return
        low = min(self.acked.values())
        while self.unacked and (first := next(iter(self.unacked))) <= low:
            del self.unacked[first]

    def advance_pass(self, own: Own) -> list[str]:
        """Set barriers, see who has passed his; return the peers that are through."""
        running = self.running
        if running is None or not running.at_end:
            return []
        if not running.closed:
            running.closed = True
            own.flows.owe_all()
            own.expectations.owe_all()
        # A mark whose flow ended untold is gone, and is not waited for.
        owed = min(own.flows.owed, len(own.flows.marks)) or min(
            own.expectations.owed, len(own.expectations.marks)
        )
        through = []
        for peer, barrier in running.barriers.items():
            if barrier == _NO_BARRIER and not owed:
                running.barriers[peer] = barrier = self.number
            if barrier != _NO_BARRIER and self.acked.get(peer, 0) >= barrier:
                through.append(peer)
        for peer in through:
            del running.barriers[peer]
            self.completed[peer] = running.number
        if not running.barriers:
            self.running = None
        return through

    def pack_marks(self, own: Own) -> Numbered | None:
        """One frame of marked records, or None when nothing is marked."""
        flows, expectations = own.flows, own.expectations
        if not flows.marks and not expectations.marks:
            return None
        count = self._estimate()
        while True:
            flow_keys = list(islice(flows.marks, count))
            keys = list(islice(expectations.marks, max(count - len(flow_keys), 0)))
            frame = self._pack(own, flow_keys, keys)
            if frame is not None:
                break
            if len(flow_keys) + len(keys) == 1:
                self._give_up(flows if flow_keys else expectations)
                if not flows.marks and not expectations.marks:
                    return None
                continue
            count = max((len(flow_keys) + len(keys)) * 3 // 4, 1)
        self._unmark_first(flows, flow_keys)
        self._unmark_first(expectations, keys)
        return frame

    def pack_proof(
        self, marker: int = 0, inventory: Inventory | None = None
    ) -> Numbered:
        """A frame without records: the digest of what was told, or an inventory."""
        proof = (marker, self.told.packed) if marker else None
        data = self._empty()
        data.proof, data.inventory = proof, inventory
        return self._number((), [], self._coder.pack_data(data))

    def pack_probe(self, payload_bytes: int) -> Numbered:
        """A frame without records, with so many bytes that say nothing."""
        payload = self._coder.pack_probe(self._empty(), payload_bytes)
        return self._number((), [], payload)

    def pack_pass(self, own: Own) -> Numbered | None:
        """One frame of the running pass, or None when it is at its end."""
        running = self.running
        if running is None or running.at_end:
            return None
        running.opened = True
        count = self._estimate()
        while True:
            flow_keys = running.flows[-count:][::-1]
            room = count - len(flow_keys)
            keys = running.expectations[-room:][::-1] if room else []
            frame = self._pack(own, flow_keys, keys)
            if frame is None and len(flow_keys) + len(keys) > 1:
                count = max((len(flow_keys) + len(keys)) * 3 // 4, 1)
                continue
            del running.flows[len(running.flows) - len(flow_keys) :]
            del running.expectations[len(running.expectations) - len(keys) :]
            if frame is not None:
                break
            self.oversized += 1
        # What leaves now is today's state: it needs no mark. A key that was new to
        # the peers is known to them from here on.
        self._unmark(own.flows, flow_keys)
        self._unmark(own.expectations, keys)
        return frame

    def forget_marks(self, own: Own) -> None:
        """There is nobody to tell: whoever comes will be told everything."""
        for table in (own.flows, own.expectations):
            self._unmark_first(table, list(islice(table.marks, _UNHEARD_AT_ONCE)))

    def _unmark_first(self, table: OwnTable, keys: Sequence[bytes]) -> None:
        """The same for keys that are the first of the marks."""
        self._unmark(table, keys)
        table.owed = max(table.owed - len(keys), 0)

    def _unmark(self, table: OwnTable, keys: Sequence[bytes]) -> None:
        """The present state of these keys is told; those with a mark lose it."""
        self.told.settle(keys, table.marks, table.bodies)
        if not table.marks:
            table.owed = 0

    def pack_keys(
        self, own: Own, flow_keys: list[bytes], keys: list[bytes]
    ) -> list[Numbered]:
        """Frames with the present state of these keys, marked or not."""
        if not flow_keys and not keys:
            return []
        frame = self._pack(own, flow_keys, keys)
        if frame is not None:
            self._unmark(own.flows, flow_keys)
            self._unmark(own.expectations, keys)
            return [frame]
        if len(flow_keys) + len(keys) == 1:
            self.oversized += 1
            return []
        half, other_half = (len(flow_keys) + 1) // 2, len(keys) // 2
        first = self.pack_keys(own, flow_keys[:half], keys[:other_half])
        return first + self.pack_keys(own, flow_keys[half:], keys[other_half:])

    def _estimate(self) -> int:
        room = self.payload_bytes * _SAFE_SHARE
        return min(max(int(room / self._flow_bytes), 1), _RECORDS_LIMIT)

    def _give_up(self, table: OwnTable) -> None:
        """A single record that no frame can carry: count it, go on without it.

        The digest counts it as told: the peers differ, and they are right to say so.
        """
        self._unmark_first(table, [next(iter(table.marks))])
        self.oversized += 1

    def _pack(
        self,
        own: Own,
        flow_keys: Sequence[bytes],
        expectation_keys: Sequence[bytes],
    ) -> Numbered | None:
        """Number and pack these keys' present state; None when it is too large."""
        data = self._empty()
        _collect(own.flows, flow_keys, data.flows, data.flow_ends)
        _collect(
            own.expectations,
            expectation_keys,
            data.expectations,
            data.expectation_ends,
        )
        payload = self._coder.pack_data(data)
        records = len(flow_keys) + len(expectation_keys)
        if len(payload) > self.payload_bytes:
            if not records:
                raise FrameError("malformed", "an empty frame larger than the MTU")
            self._flow_bytes = min(len(payload) / records, float(self.payload_bytes))
            return None
        if records > 4 or records >= self._estimate():
            share = len(payload) / records
            self._flow_bytes += (max(share, 8.0) - self._flow_bytes) / 8
        return self._number(flow_keys, expectation_keys, payload)

    def _empty(self) -> Data:
        return Data(self.floor, self.running.number if self.running else 0)

    def _number(
        self, flow_keys: Sequence[bytes], keys: Sequence[bytes], payload: bytes
    ) -> Numbered:
        self.number += 1
        self.told_records += len(flow_keys) + len(keys)
        if self.tracked or self.running is not None:
            self.unacked[self.number] = (flow_keys, keys)
        return self.number, payload


def _collect(
    table: OwnTable, keys: Sequence[bytes], flat: list[bytes], ends: list[bytes]
) -> None:
    """The present state of each key: its body, or the fact that it ended."""
    bodies = table.bodies
    for key in keys:
        body = bodies.get(key)
        if body is None:
            ends.append(key)
        else:
            flat.append(key)
            flat.append(body)
