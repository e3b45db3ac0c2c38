"""What watching the own table costs: ns per event without and with a watcher.

Run it from the root: `python -m tests.bench.bench_watch`; with the compiled copy of
`scripts/build --place` before it in PYTHONPATH, that one. Nothing is asserted. The
first figure is the one to compare with that of a version without watchers.
"""

import asyncio
import json
import time

from syncd import build
from syncd.daemon.watching import WAITING, Watching
from syncd.flows.own import Own
from syncd.flows.record import CANONICAL, END, UPDATE
from tests.unit.replication.talk import Talk, flow_body, flow_key, new_flow

FLOWS = 8000
ROUNDS = 20
_MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7
_IDENT = b"\0\0\0\1"
_NEW = [new_flow(number) for number in range(FLOWS)]
_UPDATE = [
    (UPDATE, flow_key(number), flow_body(number, 61), _IDENT, _MASK)
    for number in range(FLOWS)
]
_END = [(END, flow_key(number), b"", _IDENT, 0) for number in range(FLOWS)]


def lives(own: Own) -> float:
    """Seconds for the events of some flows' lives."""
    begin = time.process_time()
    for records in (_NEW, _UPDATE, _END):
        own.apply(records, 1.0)
    return time.process_time() - begin


def shown(seconds: float, count: int) -> str:
    return f"{seconds / count * 1e9:6.0f} ns"


async def main() -> None:
    """Print one line for each way to watch."""
    engine = Talk("a").engines["a"]
    watching = Watching(engine)
    events = 3 * FLOWS
    print(f"{build.name()}, events of {FLOWS} flows")
    alone = min(lives(engine.own) for _ in range(ROUNDS))
    print(f"nobody watches       {shown(alone, events)}")
    answers = watching.watch({"table": "own"})
    await anext(answers)
    told, taken_s = 0, 0.0
    watched = lives(engine.own)
    while told < WAITING:
        answer = await anext(answers)
        changes = answer.get("changes")
        begin = time.process_time()
        json.dumps(answer, separators=(",", ":")).encode()
        taken_s += time.process_time() - begin
        told += len(changes) if isinstance(changes, list) else 0
    watched = min(watched, *(lives(engine.own) for _ in range(3)))
    print(f"somebody watches     {shown(watched, events)}")
    print(f"a change as JSON     {shown(taken_s, told)}")
    await answers.aclose()


if __name__ == "__main__":
    asyncio.run(main())
