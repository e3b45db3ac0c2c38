"""A whole node on a real kernel: while its queue is long, intake goes first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from syncd.config import parse
from syncd.daemon import listener
from syncd.daemon.node import Node

from tests.kernel.test_events import SWALLOW, start_flows
from tests.lab import Lab, inside, sysctl

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

CONFIG = """
[control]
socket = "{directory}/socket"
[[link]]
interface = "lo"
group = "225.0.0.50"
[security]
mode = "off"
[kernel]
receive_buffer = "128 MiB"
[filter]
own_addresses = "accept"
"""
LONGEST_S = 30.0


@asynccontextmanager
async def running(lab: Lab, directory: Path) -> AsyncIterator[tuple[Node, str]]:
    """A node that has read its kernel, and its namespace."""
    box = lab.namespace("box", tracking=True)
    lab.rules(box, SWALLOW)
    sysctl(box, "net.netfilter.nf_conntrack_events", 1)
    with inside(box):
        node = Node(parse(CONFIG.format(directory=directory), "syncd.toml"))
        life = asyncio.create_task(node.run(lambda: None))
        try:
            async with asyncio.timeout(LONGEST_S):
                while not node.engine.kernel_read:  # noqa: ASYNC110 - looks on
                    await asyncio.sleep(0.01)
            yield node, box
        finally:
            node.stopped.set()
            await life


def watch_ticks(node: Node) -> list[tuple[int, bool]]:
    """From now on: own flows at each turn of the engine, and is more waiting?"""
    seen: list[tuple[int, bool]] = []
    tick = node.engine.tick

    def noted(now: float) -> None:
        seen.append((len(node.engine.own.flows), node.listener.behind))
        tick(now)

    node.engine.tick = noted  # type: ignore[method-assign] # looks on, changes nothing
    return seen


async def taken(node: Node, count: int) -> None:
    """Wait until the own table has so many flows, and the peers could be told."""
    async with asyncio.timeout(LONGEST_S):
        while len(node.engine.own.flows) < count or node.listener.behind:  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)


async def test_nothing_is_told_before_a_long_queue_was_taken(
    lab: Lab, tmp_path: Path
) -> None:
    async with running(lab, tmp_path) as (node, box):
        seen = watch_ticks(node)
        start_flows(box, 40_000)  # the loop stands still meanwhile: all of it waits
        node.pump()  # no visit yet: this may tell what is known
        seen.clear()
        await taken(node, 40_000)
        first = [flows for flows, _ in seen if flows]
        assert first
        assert min(first) >= 40_000
        assert not any(behind for _, behind in seen)
        assert node.events.check_losses() == 0


async def test_a_queue_that_does_not_end_delays_the_peers_for_a_bounded_time(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_DRAIN_LIMIT", 64)
    async with running(lab, tmp_path) as (node, box):
        seen = watch_ticks(node)
        start_flows(box, 4000)
        await taken(node, 4000)
        told = sorted({flows for flows, _ in seen if flows})
        assert told[0] < 2000  # long before the end
        assert told[0] >= 16 * 64
        assert not any(behind for _, behind in seen)
