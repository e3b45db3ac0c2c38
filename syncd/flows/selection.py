"""Which records a commit is about: each key once, with the time since it was told.

In: peers' tables, the one that counts most first, and the own table. Out: a `Selection`
of what they hold at this moment. The rule: somebody waits for the commit, so nothing is
done here for each record but a copy of references; records are made when they are used.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, compress, groupby

from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.batch import TimedRecord
from syncd.flows.filter import ACCEPTED, RecordFilter
from syncd.flows.record import (
    CTA_EXPECT_TIMEOUT,
    CTA_STATUS,
    CTA_TIMEOUT,
    master_of,
)
from syncd.flows.table import OwnTable, Table
from syncd.flows.zones import plain_key

_ASSURED = 0x4  # include/uapi/linux/netfilter/nf_conntrack_common.h
_Part = tuple[Sequence[bytes], Sequence[bytes], Sequence[float]]


class Selection:
    """Records that can be gone through any number of times; their ages stand still."""

    __slots__ = ("_now", "_parts")

    def __init__(self, parts: Sequence[_Part], now: float) -> None:
        self._parts = parts
        self._now = now

    def __len__(self) -> int:
        return sum(len(keys) for keys, _, _ in self._parts)

    def __iter__(self) -> Iterator[TimedRecord]:
        age = self._now.__sub__
        return chain.from_iterable(
            zip(keys, bodies, map(age, told_s), strict=True)
            for keys, bodies, told_s in self._parts
        )


class Wanted:
    """What the filter lets into this kernel; expectations go with their masters."""

    __slots__ = ("_filter", "_left_out")

    def __init__(self, record_filter: RecordFilter) -> None:
        self._filter = record_filter
        self._left_out: set[bytes] = set()  # tuples of flows

    @property
    def any_flow(self) -> bool:
        """Need flows not be asked about?"""
        return not self._filter.restricts_flows

    def flow(self, key: bytes, body: bytes) -> bool:
        """Is it to be committed? How old it has to be is its owner's affair."""
        try:
            if self._filter.verdict(key, body, None) == ACCEPTED:
                return True
            self._left_out.add(plain_key(key))
        except RecordError:
            return True  # the commit counts it
        return False

    def expectation(self, _key: bytes, body: bytes) -> bool:
        """Is it to be committed? Ask about the flows first."""
        try:
            return self._filter.accepts_helper(body) and (
                not self._left_out or master_of(body) not in self._left_out
            )
        except RecordError:
            return True


def select(
    tables: Sequence[tuple[Table, bool]],
    own: OwnTable,
    now: float,
    *,
    take_held: bool = False,
    ranks: Sequence[int] = (),
    wanted: Callable[[bytes, bytes], bool] | None = None,
) -> Selection:
    """What the tables hold; of one key the first table that has it counts.

    Tables of the same rank stand side by side: of one key the newest body counts (see
    docs/adr/0011). Without `ranks` each table has its own.
    The flag of a table says that own records are newer than its. `take_held` adds the
    own records whose end is held back and of which no table tells. What is not
    `wanted` is left out; of own records that was asked before.
    """
    parts: list[_Part] = []
    taken: set[bytes] = set()
    filled = [table for table, _ in tables if table.bodies]
    beaten = _beaten(tables, ranks)
    for at, (table, outdated) in enumerate(tables):
        if outdated:
            taken |= own.bodies.keys() - own.held.keys()
        if not table.bodies:
            continue
        keys, bodies, told_s = table.snapshot()
        if taken or beaten.get(at):
            older = beaten.get(at, ())
            free = [key not in taken and key not in older for key in keys]
            keys, bodies = list(compress(keys, free)), list(compress(bodies, free))
            told_s = list(compress(told_s, free))
        if wanted is not None:
            free = list(map(wanted, keys, bodies))
            if not all(free):
                keys, bodies = list(compress(keys, free)), list(compress(bodies, free))
                told_s = list(compress(told_s, free))
        parts.append((keys, bodies, told_s))
        if table is not filled[-1]:
            taken.update(keys)
    if take_held and own.held:
        lost = [k for k in own.held if not any(k in table.bodies for table in filled)]
        parts.append((lost, [own.bodies[key] for key in lost], [now] * len(lost)))
    return Selection(parts, now)


def _beaten(
    tables: Sequence[tuple[Table, bool]], ranks: Sequence[int]
) -> dict[int, set[bytes]]:
    """Keys of each table (by place) of which a table of its rank has a newer body."""
    beaten: dict[int, set[bytes]] = {}
    for _, group in groupby(range(len(ranks)), key=ranks.__getitem__):
        for first, second in combinations(group, 2):
            one, other = tables[first][0], tables[second][0]
            for key in one.bodies.keys() & other.bodies.keys():
                newer = is_newer(
                    (other.told_s[key], other.bodies[key]),
                    (one.told_s[key], one.bodies[key]),
                )
                beaten.setdefault(first if newer else second, set()).add(key)
    return beaten


def is_newer(one: tuple[int, bytes], other: tuple[int, bytes]) -> bool:
    """By the second at which a body came; if that is the same, by what it says."""
    if one[0] != other[0]:
        return one[0] > other[0]
    return _standing(one[1]) > _standing(other[1])


def _standing(body: bytes) -> tuple[bool, int]:
    """Is the flow assured, and the seconds that it had left when it was told."""
    try:
        attributes = nla.values(body)
    except RecordError:
        return False, 0
    if CTA_EXPECT_TIMEOUT in attributes and CTA_TIMEOUT not in attributes:
        return False, int.from_bytes(attributes[CTA_EXPECT_TIMEOUT])
    status = int.from_bytes(attributes.get(CTA_STATUS, b""))
    return bool(status & _ASSURED), int.from_bytes(attributes.get(CTA_TIMEOUT, b""))
