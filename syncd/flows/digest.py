"""A digest of records that is kept up to date with every change, in any order.

In: a key with the body that it had and the body that it has, b"" for none. Out: sums of
64-bit hashes, one for each bucket of keys. Two tables are equal when all their sums are
(an accident hides behind equal sums once in 2**64).

The hash of a record is xxh3 over its body, seeded with the hash of its key; the highest
bits of the hash of the key choose the bucket. The old body is hashed again when it
changes: that takes less time than to look a stored hash up, and no memory.
"""

from collections.abc import Iterable, Iterator, Sequence

from xxhash import xxh3_64_intdigest

BUCKETS = 64
_BUCKET_SHIFT = 58
_SHORT_SHIFT = 32
_MASK = (1 << 64) - 1

Span = tuple[int, int]  # first and last short name of keys


class Digest:
    """The sums over the records of one owner.

    `sums` grow beyond 64 bits, in both directions: what counts is their remainder.
    """

    __slots__ = ("sums",)

    def __init__(self) -> None:
        self.sums: list[int] = [0] * BUCKETS

    def change(self, key: bytes, old: bytes, new: bytes) -> None:
        """One record had the body `old` and has `new`; b"" is no record."""
        name = xxh3_64_intdigest(key)
        if old:
            self.sums[name >> _BUCKET_SHIFT] -= xxh3_64_intdigest(old, name)
        if new:
            self.sums[name >> _BUCKET_SHIFT] += xxh3_64_intdigest(new, name)

    def store(self, bodies: dict[bytes, bytes], flat: Sequence[bytes]) -> None:
        """Put `[key, body, ...]` into `bodies`."""
        sums = self.sums
        get = bodies.get
        for key, body in zip(flat[::2], flat[1::2], strict=True):
            old = get(key)
            if old == body:
                continue
            name = xxh3_64_intdigest(key)
            if old is None:
                sums[name >> _BUCKET_SHIFT] += xxh3_64_intdigest(body, name)
            else:
                sums[name >> _BUCKET_SHIFT] += xxh3_64_intdigest(
                    body, name
                ) - xxh3_64_intdigest(old, name)
            bodies[key] = body

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
        for key in keys:
            new = bodies.get(key, b"")
            old = marks.pop(key, new)
            if old is new:
                continue
            name = xxh3_64_intdigest(key)
            change = xxh3_64_intdigest(new, name) if new else 0
            if old:
                change -= xxh3_64_intdigest(old, name)
            sums[name >> _BUCKET_SHIFT] += change

    def remove(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """These records are gone."""
        sums = self.sums
        for key, body in records:
            name = xxh3_64_intdigest(key)
            sums[name >> _BUCKET_SHIFT] -= xxh3_64_intdigest(body, name)

    @property
    def values(self) -> list[int]:
        """The sums as unsigned numbers of 64 bits."""
        return [total & _MASK for total in self.sums]


def short_name(key: bytes) -> int:
    """The upper half of the hash of a key; the keys of a bucket are neighbours."""
    return xxh3_64_intdigest(key) >> _SHORT_SHIFT


def short_value(key: bytes, body: bytes) -> int:
    """The lower half of the hash of a record."""
    return xxh3_64_intdigest(body, xxh3_64_intdigest(key)) & 0xFFFFFFFF


def bucket_of(name: int) -> int:
    """The bucket of a key with that short name."""
    return name >> (_BUCKET_SHIFT - _SHORT_SHIFT)


def bucket_span(bucket: int) -> Span:
    """The short names of one bucket."""
    width = _BUCKET_SHIFT - _SHORT_SHIFT
    return bucket << width, ((bucket + 1) << width) - 1


def sum_of(records: Iterator[tuple[bytes, bytes]]) -> list[int]:
    """The sums over these records, afresh."""
    digest = Digest()
    for key, body in records:
        digest.change(key, b"", body)
    return digest.values
