"""The keys of one owner by bucket, found in pieces while the tables go on changing.

In: the keys that are there, and the digest, which notes the keys that change from then
on. Out: the keys of a bucket, or of a span of short names. The rule of the room: a step
looks at `PIECE` keys at most, a few milliseconds. A key that is gone stays on its
shelf: whoever reads the shelf looks the record up.
"""

from bisect import bisect_left, bisect_right

from syncd.flows.digest import Digest, Span, bucket_of, short_name

PIECE = 8192
_SORTED_LIMIT = 2  # buckets that are kept in order, some 100 bytes a key
_DOUBLES = 1024  # on a shelf, beside as many as it has keys

Place = tuple[int, bytes]  # short name and key


class Shelves:
    """Keys of some buckets; `ready` when all that were there are on them."""

    __slots__ = ("_changed", "_digest", "_left", "_limits", "_shelves", "_sorted")

    def __init__(self, digest: Digest, keys: list[bytes], buckets: int) -> None:
        """`buckets` is a bit set."""
        self._digest = digest
        self._left = keys
        self._shelves: dict[int, list[bytes]] = {
            bucket: []
            for bucket in range(buckets.bit_length())
            if buckets >> bucket & 1
        }
        self._limits: dict[int, int] = {}  # of the shelves, once all are filled
        self._sorted: dict[int, list[Place]] = {}
        self._changed: list[bytes] = []
        digest.watch = self._changed

    @property
    def ready(self) -> bool:
        """Is every key on its shelf?"""
        return not self._left

    @property
    def buckets(self) -> int:
        """Those that there is a shelf for, as a bit set."""
        return sum(1 << bucket for bucket in self._shelves)

    def step(self) -> None:
        """Put the next keys on their shelves."""
        part = self._left[-PIECE:]
        del self._left[-PIECE:]
        self._put(part)
        self._follow()
        if self.ready and not self._limits:
            for bucket, shelf in self._shelves.items():
                self._limits[bucket] = 2 * len(shelf) + _DOUBLES

    def drop(self, bucket: int) -> None:
        """This one is not needed any more."""
        self._shelves.pop(bucket, None)
        self._sorted.pop(bucket, None)

    def close(self) -> None:
        """Nothing is noted any more."""
        if self._digest.watch is self._changed:
            self._digest.watch = None

    def keys(self, bucket: int) -> set[bytes]:
        """Of one bucket; some may be gone."""
        self._follow()
        return set(self._shelves.get(bucket, ()))

    def span(self, span: Span) -> list[Place]:
        """What is between these short names, in order; some may be gone."""
        self._follow()
        first, last = span
        found: list[Place] = []
        for bucket in range(bucket_of(first), bucket_of(last) + 1):
            if bucket in self._shelves:
                places = self._in_order(bucket)
                begin = bisect_left(places, first, key=_name)
                found += places[begin : bisect_right(places, last, key=_name)]
        return found

    def _in_order(self, bucket: int) -> list[Place]:
        places = self._sorted.get(bucket)
        if places is None:
            places = sorted((short_name(k), k) for k in set(self._shelves[bucket]))
            while len(self._sorted) >= _SORTED_LIMIT:
                del self._sorted[next(iter(self._sorted))]
            self._sorted[bucket] = places
        return places

    def _follow(self) -> None:
        """Take what has changed; most of it is here already."""
        if self._changed:
            changed = list(dict.fromkeys(self._changed))
            self._changed.clear()
            self._put(changed)

    def _put(self, keys: list[bytes]) -> None:
        shelves = self._shelves
        for key in keys:
            name = short_name(key)
            bucket = bucket_of(name)
            shelf = shelves.get(bucket)
            if shelf is None:
                continue
            places = self._sorted.get(bucket)
            if places is not None:
                at = bisect_left(places, (name, key))
                if at < len(places) and places[at] == (name, key):
                    continue
                places.insert(at, (name, key))
            shelf.append(key)
            if len(shelf) > self._limits.get(bucket, len(shelf)):
                shelf[:] = set(shelf)
                self._limits[bucket] = 2 * len(shelf) + _DOUBLES


def _name(place: Place) -> int:
    return place[0]
