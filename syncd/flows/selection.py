"""Which records a commit is about: each key once, with the time since it was told.

In: peers' tables, the one that counts most first, and the own table. Out: a `Selection`
of what they hold at this moment. The rule: somebody waits for the commit, so nothing is
done here for each record but a copy of references; records are made when they are used.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, compress

from syncd.flows.batch import TimedRecord
from syncd.flows.table import OwnTable, Table

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


def select(
    tables: Sequence[tuple[Table, bool]],
    own: OwnTable,
    now: float,
    *,
    take_held: bool = False,
) -> Selection:
    """What the tables hold; of one key the first table that has it counts.

    The flag of a table says that own records are newer than its. `take_held` adds the
    own records whose end is held back and of which no table tells.
    """
    parts: list[_Part] = []
    taken: set[bytes] = set()
    filled = [table for table, _ in tables if table.bodies]
    for table, outdated in tables:
        if outdated:
            taken |= own.bodies.keys() - own.held.keys()
        if not table.bodies:
            continue
        keys, bodies, told_s = table.snapshot()
        if taken:
            free = [key not in taken for key in keys]
            keys, bodies = list(compress(keys, free)), list(compress(bodies, free))
            told_s = list(compress(told_s, free))
        parts.append((keys, bodies, told_s))
        if table is not filled[-1]:
            taken.update(keys)
    if take_held and own.held:
        lost = [k for k in own.held if not any(k in table.bodies for table in filled)]
        parts.append((lost, [own.bodies[key] for key in lost], [now] * len(lost)))
    return Selection(parts, now)
