"""A daemon that has lost an invariant ends; it does not go on deaf."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from syncd.config import parse
from syncd.daemon.node import Node

from tests.lab import TRACKING, Lab, inside, run_in

pytestmark = pytest.mark.kernel


@pytest.fixture
def namespace() -> Iterator[str]:
    with Lab("invariant") as lab:
        yield lab.namespace("fw1")


class BrokenError(Exception):
    """What must never happen."""


@pytest.mark.parametrize("door", ["kernel_events", "tick"])
def test_what_nobody_catches_ends_the_daemon(
    namespace: str, tmp_path: Path, door: str
) -> None:
    text = f"""
    [node]
    name = "fw1"
    [control]
    socket = "{tmp_path}/socket"
    [security]
    mode = "off"
    [[link]]
    interface = "lo"
    group = "225.0.0.50"
    """
    ended: list[BaseException] = []

    async def live() -> None:
        node = Node(parse(text, "test"))

        def break_down() -> None:
            def broken(*_: object) -> None:
                raise BrokenError

            setattr(node.engine, door, broken)
            run_in(namespace, "ping", "-c1", "-W1", "127.0.0.1")

        loop = asyncio.get_running_loop()

        def ready() -> None:
            loop.call_later(0.3, break_down)

        async with asyncio.timeout(5):
            await node.run(ready)

    def inside_namespace() -> None:
        with inside(namespace):
            try:
                asyncio.run(live())
            except BaseException as error:  # noqa: BLE001 - looked at below
                ended.append(error)

    run_in(namespace, "ip", "link", "set", "lo", "up")
    run_in(namespace, "nft", "-f", "-", stdin=TRACKING)
    thread = threading.Thread(target=inside_namespace)
    thread.start()
    thread.join()
    assert [type(error) for error in ended] == [BrokenError]
