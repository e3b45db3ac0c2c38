"""A digest of records that is kept up to date with every change, in any order.

In: a key with the body that it had and the body that it has, b"" for none. Out: sums of
64-bit hashes, one for each bucket of keys. Two tables are equal when all their sums are
(an accident hides behind equal sums once in 2**64).

The hash of a record is xxh3 over its body, seeded with the hash of its key; the highest
bits of the hash of the key choose the bucket. The old body is hashed again when it
changes: that takes less time than to look a stored hash up, and no memory.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

from syncd.flows.hashing import xxh3

BUCKETS = 64
_BUCKET_SHIFT = 58
_SHORT_SHIFT = 32
_MASK = (1 << 64) - 1
_SHORT_MASK = (1 << 32) - 1
ALL_BUCKETS = (1 << BUCKETS) - 1
_PACKED = struct.Struct(f">Q{BUCKETS}I")
PACKED_BYTES = _PACKED.size

Span = tuple[int, int]  # first and last short name of keys
Chosen = tuple[int, bytes, bytes]  # hash of the key, key, body


class Digest:
    """The sums over the records of one owner.

    `sums` grow beyond 64 bits, in both directions: what counts is their remainder, so
    that a change may be counted in 64 bits when compiled.
    The keys that change are noted in `watch`, if somebody wants that.
    """

    __slots__ = ("sums", "watch")

    def __init__(self) -> None:
        self.sums: list[int] = [0] * BUCKETS
        self.watch: list[bytes] | None = None

    def store(self, bodies: dict[bytes, bytes], flat: list[bytes]) -> list[bytes]:
        """Put `[key, body, ...]` into `bodies`; the keys whose bodies are new."""
        changed: list[bytes] = []
        sums = self.sums
        for at in range(0, len(flat) - 1, 2):
            key, body = flat[at], flat[at + 1]
            old = bodies.get(key)
            if old == body:
                continue
            name = xxh3(key)
            change = xxh3(body, name)
            if old is not None:
                before = xxh3(old, name)
                change -= before
            sums[name >> _BUCKET_SHIFT] += change
            bodies[key] = body
            changed.append(key)
        if self.watch is not None:
            self.watch += changed
        return changed

    def settle(
        self,
        keys: Sequence[bytes],
        marks: dict[bytes, bytes | None],
        bodies: dict[bytes, bytes],
    ) -> None:
        """What is in `bodies` of these keys takes the place of what `marks` say.

        They lose their marks; a key without one has changed nothing.
        """
        sums = self.sums
        if self.watch is not None:
            self.watch += keys
        for key in keys:
            new = bodies.get(key, b"")
            old = marks.pop(key, new)
            if old is new:
                continue
            name = xxh3(key)
            change = xxh3(new, name) if new else 0
            if old:
                before = xxh3(old, name)
                change -= before
            sums[name >> _BUCKET_SHIFT] += change

    def remove(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """These records are gone."""
        sums = self.sums
        for key, body in records:
            name = xxh3(key)
            sums[name >> _BUCKET_SHIFT] -= xxh3(body, name)

    def recount(self, chosen: Iterable[Chosen], buckets: int) -> int:
        """Sum up these buckets (a bit set) afresh; `chosen` are all their records.

        Returns the buckets whose sum was not that of their records.
        """
        fresh = [0] * BUCKETS
        for name, _, body in chosen:
            fresh[name >> _BUCKET_SHIFT] += xxh3(body, name)
        wrong = 0
        for bucket in range(BUCKETS):
            if buckets >> bucket & 1:
                if (fresh[bucket] - self.sums[bucket]) & _MASK:
                    wrong |= 1 << bucket
                self.sums[bucket] = fresh[bucket]
        return wrong

    def recount_all(self, tables: Iterable[dict[bytes, bytes]]) -> None:
        """Sum up everything afresh; the tables hold all the records."""
        self.sums = _sums(tables)

    @property
    def values(self) -> list[int]:
        """The sums as unsigned numbers of 64 bits."""
        return [total & _MASK for total in self.sums]

    @property
    def packed(self) -> bytes:
        """For a frame: all 64 bits of the whole, the lower 32 bits of each bucket."""
        values = self.values
        return _PACKED.pack(
            sum(values) & _MASK, *(value & _SHORT_MASK for value in values)
        )

    def differing(self, packed: bytes) -> int:
        """The buckets (a bit set) that are not as in `packed`; 0 when all is equal."""
        ours = self.packed
        if ours == packed:
            return 0
        theirs = _PACKED.unpack(packed)[1:]
        buckets = 0
        for bucket, value in enumerate(_PACKED.unpack(ours)[1:]):
            if value != theirs[bucket]:
                buckets |= 1 << bucket
        return buckets or ALL_BUCKETS


def _sums(tables: Iterable[dict[bytes, bytes]]) -> list[int]:
    sums = [0] * BUCKETS
    for table in tables:
        for key, body in table.items():
            name = xxh3(key)
            sums[name >> _BUCKET_SHIFT] += xxh3(body, name)
    return sums


def choose(records: Iterable[tuple[bytes, bytes]], buckets: int) -> list[Chosen]:
    """Of all records those that are in these buckets (a bit set)."""
    wanted = [buckets >> bucket & 1 for bucket in range(BUCKETS)]
    return [
        (name, key, body)
        for key, body in records
        if wanted[(name := xxh3(key)) >> _BUCKET_SHIFT]
    ]


def named(records: Iterable[tuple[bytes, bytes]]) -> Iterator[Chosen]:
    """All records, one by one."""
    for key, body in records:
        yield xxh3(key), key, body


def short_name(key: bytes) -> int:
    """The upper half of the hash of a key; the keys of a bucket are neighbours."""
    return xxh3(key) >> _SHORT_SHIFT


def short_names(record: Chosen) -> tuple[int, int]:
    """The upper half of the hash of its key, the lower half of its own."""
    name, _, body = record
    return name >> _SHORT_SHIFT, xxh3(body, name) & _SHORT_MASK


def check_sum(label: bytes, content: bytes) -> int:
    """32 bits that tell whether this content still stands under this label."""
    return xxh3(content, xxh3(label)) & _SHORT_MASK


def bucket_of(name: int) -> int:
    """The bucket of a key with that short name."""
    return name >> (_BUCKET_SHIFT - _SHORT_SHIFT)


def spans_of(buckets: int) -> list[Span]:
    """The short names of these buckets (a bit set), neighbours in one span."""
    width = _BUCKET_SHIFT - _SHORT_SHIFT
    spans: list[Span] = []
    for bucket in range(BUCKETS):
        if buckets >> bucket & 1:
            first, last = bucket << width, ((bucket + 1) << width) - 1
            if spans and spans[-1][1] == first - 1:
                first = spans.pop()[0]
            spans.append((first, last))
    return spans
