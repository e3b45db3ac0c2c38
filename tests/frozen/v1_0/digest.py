"""Proof that two tables are equal: a digest that does not depend on the order.

In: the tables as they stand at one position of a sender's stream. Out: counts and a
64-bit sum over BLAKE2b of every record. The snapshot is a shallow copy; the hashing
is done in slices, so that a table of a million flows does not stop the daemon.

A comparison: the sender puts `marker` m into a DATA frame when no change mark is left
and takes its snapshot; the receiver takes its own when that frame comes, provided that
it misses nothing. The digest follows in a HELLO, the receiver answers with a verdict.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice

NO_VERDICT = 0
EQUAL = 1
DIFFERENT = 2
UNCLEAN = 3  # frames were missing at the marker: ask again

_SLICE_RECORDS = 4096  # about 5 ms
_MODULUS = 1 << 64


class Digest:
    """The digest of one node's flows and expectations at one marker."""

    __slots__ = ("_records", "_sum", "done", "expectations", "flows", "marker")

    def __init__(
        self,
        marker: int,
        flows: Mapping[bytes, bytes],
        expectations: Mapping[bytes, bytes],
    ) -> None:
        self.marker = marker
        self.flows = len(flows)
        self.expectations = len(expectations)
        self.done = False
        self._records: Iterator[tuple[bytes, bytes]] = iter(
            {**flows, **expectations}.items()
        )
        self._sum = 0

    def proceed(self) -> bool:
        """Hash one slice; True when the digest is complete."""
        count = 0
        total = 0
        for key, body in islice(self._records, _SLICE_RECORDS):
            count += 1
            total += int.from_bytes(blake2b(key + body, digest_size=8).digest())
        self._sum = (self._sum + total) % _MODULUS
        self.done = count < _SLICE_RECORDS
        return self.done

    @property
    def value(self) -> tuple[int, int, int, int]:
        """(marker, flows, expectations, sum) as a HELLO carries it."""
        return self.marker, self.flows, self.expectations, self._sum
