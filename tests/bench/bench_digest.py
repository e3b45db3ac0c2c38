"""What the digest costs: us per change that is told, on the side that tells and hears.

Run it from the root: `python -m tests.bench.bench_digest`. Nothing is asserted. Bytes
per flow: none. The digest is 64 numbers per table, and a mark points to the body that
was told before; that body lives on until the mark leaves.
"""

import sys
from functools import partial
from timeit import repeat

from syncd.flows.digest import BUCKETS, Digest, sum_of
from syncd.flows.table import Table
from tests.unit.replication.talk import flow_body, flow_key

FLOWS = 20_000
BATCH = 32  # records of a frame
ROUNDS = 9

Bodies = dict[bytes, bytes]


def main() -> None:
    """Print one line for each figure."""
    now, then = (
        {flow_key(n): flow_body(n, seconds) for n in range(FLOWS)}
        for seconds in (60, 30)
    )
    turns = {
        "active: a change is told": partial(told, Digest(), now, then),
        "active: the same without a digest": partial(told_blindly, then),
        "standby: a change is stored": partial(stored, Table(), now, then),
        "standby: the same without a digest": partial(stored_blindly, now, then),
        "a whole table is summed up afresh": partial(summed_up, now),
    }
    for name, turn in turns.items():
        took = min(repeat(turn, number=1, repeat=ROUNDS)) / FLOWS * 1e6
        print(f"{name:36} {took:6.3f} us a record")
    sums = Digest()
    sums.store({}, flat_of(now)[0])
    size = sys.getsizeof(sums.sums) + BUCKETS * sys.getsizeof(1 << 64)
    print(f"{'a digest':36} {size:6} bytes, 0 a flow")


def flat_of(bodies: Bodies) -> list[list[bytes]]:
    """As frames carry them."""
    records = list(bodies.items())
    return [
        [part for record in records[at : at + BATCH] for part in record]
        for at in range(0, FLOWS, BATCH)
    ]


def told(digest: Digest, now: Bodies, then: Bodies) -> None:
    marks: dict[bytes, bytes | None] = {**then}
    keys = list(now)
    for at in range(0, FLOWS, BATCH):
        digest.settle(keys[at : at + BATCH], marks, now)


def told_blindly(then: Bodies) -> None:
    marks: dict[bytes, bytes | None] = {**then}
    keys = list(then)
    for at in range(0, FLOWS, BATCH):
        for key in keys[at : at + BATCH]:
            del marks[key]


def stored(table: Table, now: Bodies, then: Bodies) -> None:
    known = table.bodies.get(next(iter(now)))
    for flat in flat_of(now if known != next(iter(now.values())) else then):
        table.put(flat, 1.0)


def stored_blindly(now: Bodies, then: Bodies) -> None:
    bodies, told_s = dict(then), dict.fromkeys(then, 1)
    for flat in flat_of(now):
        keys = flat[::2]
        bodies.update(zip(keys, flat[1::2], strict=True))
        told_s.update(dict.fromkeys(keys, 1))


def summed_up(now: Bodies) -> None:
    sum_of(now.items())


if __name__ == "__main__":
    main()
