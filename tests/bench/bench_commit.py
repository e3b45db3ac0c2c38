"""How long a commit takes: into an empty table, and onto flows that are there.

    python -m tests.bench.bench_commit [flows] [--nat] [--inline]

In a namespace of its own, with nf_conntrack_events=1 and a listener, as in a daemon.
`--nat` has every flow masqueraded; `--inline` sends from the event loop's thread
instead of a worker's. Prints seconds, flows per second, and the time that the event
loop was blocked for at most. `nf_conntrack_max` must allow the flows.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from syncd.flows.batch import TimedRecord
from syncd.flows.commit import Batch, CommitPlan
from syncd.flows.reader import RecordReader
from syncd.kernel.events import EventSocket
from syncd.kernel.requests import RequestSocket, carry_out
from tests.lab import Lab, inside, sysctl

_DATA = Path(__file__).parents[1] / "data" / "ctnetlink"
_EVENT_BUFFER = 32 << 20


class _Driver(Protocol):
    async def __call__(self, plan: CommitPlan, requests: RequestSocket) -> None: ...


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("flows", nargs="?", type=int, default=100_000)
    parser.add_argument("--nat", action="store_true")
    parser.add_argument("--inline", action="store_true")
    options = parser.parse_args()
    with Lab("bench-commit") as lab:
        namespace = lab.namespace("fw", tracking=True)
        nat = "table ip nat { chain post { type nat hook postrouting priority 100; }; }"
        lab.rules(namespace, nat)
        sysctl(namespace, "net.netfilter.nf_conntrack_events", 1)
        with inside(namespace):
            requests = RequestSocket()
            events = EventSocket(_EVENT_BUFFER, reliable=False)
        events.ignore_portids([requests.portid])
        scenario = "tcp4_masquerade" if options.nat else "tcp4_close"
        records = list(_records(scenario, options.flows))
        driver = _carry_out_inline if options.inline else carry_out
        asyncio.run(_measure(records, requests, driver))
        requests.close()
        events.close()


async def _measure(
    records: list[TimedRecord], requests: RequestSocket, driver: _Driver
) -> None:
    await _commit("fresh", records, {}, requests, driver)
    reader, held = RecordReader(), dict[bytes, bytes]()
    async for messages in requests.dump("flows"):
        held |= {key: body for _, key, body, _, _ in reader.read(messages)}
    await _commit("again, known", records, held, requests, driver)
    await _commit("again, unknown", records, {}, requests, driver)
    closing = [(key, _closed(body), age) for key, body, age in records]
    await _commit("changed, known", closing, held, requests, driver)


async def _commit(
    name: str,
    records: list[TimedRecord],
    held: Mapping[bytes, bytes],
    requests: RequestSocket,
    driver: _Driver,
) -> None:
    plan = CommitPlan(records, held)
    watch = asyncio.create_task(_longest_block())
    await asyncio.sleep(0)
    start = time.perf_counter()
    await driver(plan, requests)
    took_s = time.perf_counter() - start
    watch.cancel()
    blocked_s = (await asyncio.gather(watch, return_exceptions=True))[0]
    result = plan.result
    print(
        f"{name:15} {took_s:6.3f} s {len(records) / took_s:9.0f}/s"
        f"  loop blocked {blocked_s} ms at most"
        f"  created {result.created} updated {result.updated}"
        f" unchanged {result.unchanged} failed {result.failed} {result.error}"
    )


async def _longest_block() -> str:
    """Until cancelled: how late the loop comes back, at worst."""
    worst_s = 0.0
    last = time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst_s, last = max(worst_s, now - last - 0.001), now
    except asyncio.CancelledError:
        return f"{worst_s * 1000:.1f}"


async def _carry_out_inline(plan: CommitPlan, requests: RequestSocket) -> None:
    batch: Batch | None
    while (batch := plan.next_batch()) is not None:
        plan.report(batch, *requests.exchange(batch.messages))
        await asyncio.sleep(0)


def _records(scenario: str, count: int) -> Iterator[TimedRecord]:
    """Copies of a recorded flow that differ in the client's address and port."""
    text = (_DATA / "inject_vectors.jsonl").read_text()
    vectors = [json.loads(line) for line in text.splitlines()]
    source = next(v["source_hex"] for v in vectors if v["scenario"] == scenario)
    _, key, body, _, _ = RecordReader().read_one(bytes.fromhex(source))
    timer = body.index(bytes.fromhex("08000700"))
    body = body[:timer] + bytes.fromhex("0800070000069780") + body[timer + 8 :]
    state = bytes.fromhex("0500010007000000")
    body = body.replace(state, bytes.fromhex("0500010003000000"))
    translated = body[20:24] != key[16:20]
    for number in range(count):
        client = (0x0A640000 + number // 16).to_bytes(4, "big")
        port = (20_000 + number % 16).to_bytes(2, "big")
        real_port = (1024 + number % 60_000).to_bytes(2, "big") if translated else port
        server = (0x0A650000 + number // 60_000).to_bytes(4, "big")
        back = body[20:24] if translated else client
        yield (
            key[:16] + client + key[20:24] + server + key[28:44] + port + key[46:],
            body[:12]
            + server
            + body[16:20]
            + back
            + body[24:48]
            + real_port
            + body[50:],
            float(number % 50),
        )


def _closed(body: bytes) -> bytes:
    return body.replace(bytes.fromhex("0500010003"), bytes.fromhex("0500010007"))


if __name__ == "__main__":
    main()
