"""What the proof of equality costs, measured inside one process, without daemons.

In: how many flows a table has. Out: us per record that is summed up; us per change that
is told (the active side) and that is stored (the standby), with the work of marks and
tables that there is without a digest, too; bytes per flow that a digest adds. The sums
are at most two records' share of a change: the body that was, and the one that is.
"""

import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from timeit import repeat

from syncd.flows.digest import Digest
from syncd.flows.table import Table

_BATCH = 32  # records of a frame
_ROUNDS = 7
_KEY_BYTES, _BODY_BYTES = 56, 128  # a TCP flow over IPv4

Bodies = dict[bytes, bytes]
Frames = list[list[bytes]]


def measure_digest(flows: int) -> dict[str, float]:
    """The figures, by name."""
    source = random.Random(1)  # noqa: S311 - the same records each time
    keys = [source.randbytes(_KEY_BYTES) for _ in range(flows)]
    now, then = ({key: source.randbytes(_BODY_BYTES) for key in keys} for _ in "ab")
    frames = _frames(now), _frames(then)
    return {
        "digest: a record is summed up": _us(
            partial(Digest().recount_all, [now]), flows
        ),
        "digest: a change is told": _us(partial(_told, Digest(), now, then), flows),
        "digest: a change is stored": _us(partial(_stored, Table(), frames), 2 * flows),
        "digest bytes": _bytes(now) / flows,
    }


def _us(turn: Callable[[], object], changes: int) -> float:
    return min(repeat(turn, number=1, repeat=_ROUNDS)) / changes * 1e6


def _frames(bodies: Bodies) -> Frames:
    records = list(bodies.items())
    return [
        [part for record in records[at : at + _BATCH] for part in record]
        for at in range(0, len(records), _BATCH)
    ]


def _told(digest: Digest, now: Bodies, then: Bodies) -> None:
    """Every record has changed, and leaves with a frame."""
    marks: dict[bytes, bytes | None] = {**then}
    keys = list(now)
    for at in range(0, len(keys), _BATCH):
        digest.settle(keys[at : at + _BATCH], marks, now)


def _stored(table: Table, frames: tuple[Frames, Frames]) -> None:
    """Every record comes twice, each time with another body."""
    for flat in frames[0] + frames[1]:
        table.put(flat, 1.0)


def _bytes(bodies: Bodies) -> float:
    """What a digest over these records takes."""
    tracemalloc.start()
    digest = Digest()
    digest.store({}, [part for record in bodies.items() for part in record])
    marks: dict[bytes, bytes | None] = {}
    digest.settle(list(bodies), marks, bodies)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return float(size)
