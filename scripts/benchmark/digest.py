"""What the proof of equality costs, measured inside one process, without daemons.

In: how many flows a table has. Out: us per change that is told (the active side) and
that is stored (the standby), each less the same work without a digest; bytes per flow
that a digest adds; and what it takes to sum a table up afresh.
"""

import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from timeit import repeat

from syncd.flows.digest import Digest, sum_of
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
    told = _us(partial(_told, Digest(), now, then), flows)
    told -= _us(partial(_told_blindly, then), flows)
    frames = _frames(now), _frames(then)
    stored = _us(partial(_stored, Table(), frames), 2 * flows)
    stored -= _us(partial(_stored_blindly, frames), 2 * flows)
    return {
        "digest: a change is told": told,
        "digest: a change is stored": stored,
        "digest: a record summed up anew": _us(partial(sum_of, now.items()), flows),
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


def _told_blindly(then: Bodies) -> None:
    marks: dict[bytes, bytes | None] = {**then}
    keys = list(then)
    for at in range(0, len(keys), _BATCH):
        for key in keys[at : at + _BATCH]:
            del marks[key]


def _stored(table: Table, frames: tuple[Frames, Frames]) -> None:
    """Every record comes twice, each time with another body."""
    for flat in frames[0] + frames[1]:
        table.put(flat, 1.0)


def _stored_blindly(frames: tuple[Frames, Frames]) -> None:
    bodies: Bodies = {}
    told_s: dict[bytes, int] = {}
    for flat in frames[0] + frames[1]:
        keys = flat[::2]
        bodies.update(zip(keys, flat[1::2], strict=True))
        told_s.update(dict.fromkeys(keys, 1))


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
