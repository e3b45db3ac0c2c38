"""Watchers of every pace hear what changes; nothing waits for them."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from syncd.daemon.commands import Answer
from syncd.daemon.watching import WAITING, WATCHERS, Watching
from syncd.errors import ControlError
from syncd.flows.record import END

from tests.unit.replication.talk import Talk, flow_body, flow_key, new_flow, put

pytestmark = pytest.mark.asyncio
PATIENCE_S = 20.0
ONE = b"\0\0\0\1"


def pair() -> tuple[Talk, Watching]:
    """Two nodes in step; who watches is with the first."""
    talk = Talk("a", "b")
    put(talk.engines["b"].own, 1)
    talk.run(1)
    return talk, Watching(talk.engines["a"])


class Client:
    """Reads a watch as the control socket does, when it is asked to."""

    def __init__(self, watching: Watching, **options: object) -> None:
        self._answers: AsyncGenerator[Answer, None] = watching.watch(options)

    async def next(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._answers)

    async def begin(self) -> "Client":
        assert "watching" in await self.next()
        return self

    async def changes(self) -> list[tuple[str, str]]:
        """Event and owner of each change of the next answer."""
        rows = (await self.next())["changes"]
        assert isinstance(rows, list)
        return [(event, owner) for event, _, _, owner in rows]

    async def close(self) -> None:
        await self._answers.aclose()


async def test_own_and_peer_changes_go_to_those_who_watch_them() -> None:
    talk, watching = pair()
    a, b = talk.engines["a"], talk.engines["b"]
    own = await Client(watching, table="own").begin()
    peer = await Client(watching, table="peer", peer="b").begin()
    ends = await Client(watching, table="peer", events="destroy").begin()
    put(a.own, 5)
    put(b.own, 6)
    b.own.apply([(END, flow_key(1), b"", ONE, 0)], 1.0)
    talk.run(0.2)
    row = ["new", flow_key(5).hex(), flow_body(5).hex(), ""]
    assert await own.next() == {"changes": [row]}
    assert sorted(await peer.changes()) == [("destroy", "b"), ("new", "b")]
    assert await ends.changes() == [("destroy", "b")]
    for client in (own, peer, ends):
        await client.close()


async def test_tables_are_left_alone_when_the_last_watcher_has_gone() -> None:
    talk, watching = pair()
    a = talk.engines["a"]
    tables = [a.own.flows, a.own.expectations]
    tables += [a.peers["b"].flows, a.peers["b"].expectations]  # type: ignore[list-item] # both have what is looked at
    one = await Client(watching, table="own").begin()
    two = await Client(watching, table="own").begin()
    other = await Client(watching, table="peer").begin()
    await one.close()
    assert [table.changes is not None for table in tables] == [True] * 4
    await two.close()
    await other.close()
    assert [table.changes for table in tables] == [None] * 4
    assert watching.status() == []


async def test_a_watcher_that_does_not_read_costs_a_queue_and_is_told() -> None:
    talk, watching = pair()
    own = talk.engines["a"].own
    slow = await Client(watching, table="own").begin()
    quick = await Client(watching, table="own").begin()
    seen = 0
    for round_ in range(3):
        own.apply([new_flow(number, round_ + 1) for number in range(10_000)], 1.0)
        while seen < 10_000 * (round_ + 1):
            seen += len(await quick.changes())
    (row, _) = watching.status()
    assert (row["waiting"], row["dropped"]) == (WAITING, 30_000 - WAITING)
    read = 0
    while "changes" in (answer := await slow.next()):
        assert isinstance(answer["changes"], list)
        read += len(answer["changes"])
    assert (read, answer) == (WAITING, {"lost": 30_000 - WAITING})
    put(own, 11_000)
    assert await slow.changes() == [("new", "")]
    await slow.close()
    await quick.close()


async def test_what_is_missing_is_told_where_it_is_missing() -> None:
    talk, watching = pair()
    own = talk.engines["a"].own
    client = await Client(watching, table="own").begin()
    own.apply([new_flow(number) for number in range(WAITING + 5)], 1.0)
    await until(lambda: watching.status()[0]["dropped"] == 5)
    read = len(await client.changes())
    put(own, 40_000)
    await until(lambda: watching.status()[0]["waiting"] != WAITING - read)
    told: list[int] = []
    while len(told) < WAITING - read + 2:
        answer = await client.next()
        rows = answer.get("changes")
        told += (
            [0] * len(rows) if isinstance(rows, list) else [int(str(answer["lost"]))]
        )
    assert [(at, n) for at, n in enumerate(told) if n] == [(WAITING - read, 5)]
    await client.close()


async def until(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not good():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def test_a_peer_that_comes_brings_its_table_and_takes_it_away() -> None:
    talk, watching = pair()
    a = talk.engines["a"]
    client = await Client(watching, table="peer").begin()
    known = a.peers.pop("b")
    assert await client.changes() == [("destroy", "b")]
    a.peers["b"] = known
    assert await client.changes() == [("new", "b")]
    assert a.forget_peers() == 1
    assert await client.changes() == [("destroy", "b")]
    await client.close()


async def test_too_many_watchers_are_turned_away() -> None:
    _, watching = pair()
    clients = [await Client(watching, table="own").begin() for _ in range(WATCHERS)]
    with pytest.raises(ControlError, match="busy with 8 other watchers"):
        await Client(watching, table="own").begin()
    for client in clients:
        await client.close()


async def test_a_daemon_that_stops_ends_every_watch_with_its_last_changes() -> None:
    talk, watching = pair()
    begun = asyncio.Event()

    async def read() -> list[Answer]:
        answers: list[Answer] = []
        async for answer in watching.watch({"table": "own"}):
            answers.append(answer)
            begun.set()
        return answers

    async def stand_still() -> None:
        async for _ in watching.watch({"table": "own"}):
            await asyncio.Event().wait()

    reading, standing = asyncio.create_task(read()), asyncio.create_task(stand_still())
    await begun.wait()
    put(talk.engines["a"].own, 5)
    await watching.close()
    _, changes, last = await reading
    assert "changes" in changes
    assert (last["ok"], last["status"]) == (False, 3)
    await asyncio.wait((standing,))
    assert standing.cancelled()
