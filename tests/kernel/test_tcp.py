"""TCP links over loopback: one connection per pair, whatever the other end does.

Each test has a namespace of its own: nothing else can hold the port.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from syncd.config_link import LinkConfig
from syncd.link.facts import Batch, LinkState
from syncd.link.stream import LENGTH_LIMIT
from syncd.link.tcp import TcpLink

from tests.lab import Lab, inside

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

BUFFER = 64 * 1024
LONGEST_S = 10.0
PORT = 3780  # below those that the kernel gives out


@pytest.fixture(autouse=True)
def apart(lab: Lab) -> Iterator[None]:
    """The test runs in a fresh namespace."""
    with inside(lab.namespace("tcp")):
        yield


def address(number: int) -> str:
    return f"127.0.77.{number}"


@dataclass
class Node:
    """A link and what it has heard."""

    link: TcpLink
    heard: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def connections(self) -> int:
        return self.link.status().connections

    def plug_in(self) -> None:
        index = socket.if_nametoindex("lo")
        self.link.interface_changed(index, 65536, [self.link.config.local])


def node(number: int, peers: tuple[int, ...]) -> Node:
    config = LinkConfig(
        type="tcp",
        port=PORT,
        local=address(number),
        peers=tuple(map(address, peers)),
        send_buffer=BUFFER,
        receive_buffer=BUFFER,
    )
    heard: list[tuple[bytes, str]] = []

    def hear(batch: Batch) -> bool:
        heard.extend(batch)
        return any(datagram != b"forged" for datagram, _ in batch)

    return Node(TcpLink(config, hear), heard)


@asynccontextmanager
async def nodes(
    *numbers: int, absent: tuple[int, ...] = ()
) -> AsyncIterator[list[Node]]:
    """Nodes that know each other, and the absent ones, whom a test plays itself."""
    everybody = (*numbers, *absent)
    made = [node(n, tuple(p for p in everybody if p != n)) for n in numbers]
    for one in made:
        one.plug_in()
    try:
        yield made
    finally:
        for one in made:
            one.link.close()
        await asyncio.sleep(0.01)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST_S):
        while not true():  # noqa: ASYNC110 - links have no events
            await asyncio.sleep(0.01)


async def call(source: int, target: Node) -> socket.socket:
    """Connect as somebody at that address."""
    sock = socket.socket()
    sock.setblocking(False)  # noqa: FBT003 - its only argument
    config = target.link.config
    try:
        sock.bind((address(source), 0))
        await asyncio.get_running_loop().sock_connect(sock, (config.local, config.port))
    except OSError:
        sock.close()
        raise
    return sock


async def closed_by_peer(sock: socket.socket) -> bool:
    async with asyncio.timeout(LONGEST_S):
        try:
            while await asyncio.get_running_loop().sock_recv(sock, 65536):
                pass
        except ConnectionError:
            pass
    return True


async def test_every_pair_has_one_connection_and_everybody_hears_everybody() -> None:
    async with nodes(1, 2, 3) as made:
        await until(lambda: [one.connections for one in made] == [2, 2, 2])
        for number, one in enumerate(made, 1):
            assert one.link.state is LinkState.ACTIVE
            assert await one.link.send([b"a%d" % number, b"b%d" % number]) == 2
        await until(lambda: all(len(one.heard) == 4 for one in made))
        assert sorted(made[0].heard) == [
            (b"a2", address(2)),
            (b"a3", address(3)),
            (b"b2", address(2)),
            (b"b3", address(3)),
        ]
        status = made[0].link.status()
        assert (status.sent_frames, status.received_frames) == (2, 4)
        assert status.rejected_frames == status.send_errors == 0


async def test_a_peer_that_went_away_is_connected_again() -> None:
    async with nodes(1, 2) as made:
        for gone in (made[0], made[1], made[0]):
            await until(lambda: made[0].connections == made[1].connections == 1)
            gone.link.interface_changed(None, 0, [])
            await until(lambda: made[0].connections == made[1].connections == 0)
            assert [one.link.state for one in made] == [LinkState.WAITING] * 2
            assert await made[0].link.send([b"nowhere"]) == 0
            gone.plug_in()
        await until(lambda: made[0].connections == made[1].connections == 1)
        await made[1].link.send([b"here"])
        await until(lambda: made[0].heard == [(b"here", address(2))])


async def test_a_peer_that_is_not_there_is_named_in_plain_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with nodes(1, 2) as made:
        await until(lambda: made[0].connections == made[1].connections == 1)
        made[1].link.interface_changed(None, 0, [])
        await until(lambda: "trying again" in caplog.text)
        said = [record.getMessage() for record in caplog.records]
    line = f"{address(1)}: {address(2)}: Connection refused, trying again"
    assert [text for text in said if "trying again" in text] == [line]


async def test_a_newer_connection_of_a_peer_replaces_the_older_one() -> None:
    async with nodes(2, absent=(1,)) as (two,):
        first = await call(1, two)
        await until(lambda: two.connections == 1)
        second = await call(1, two)
        second.send(b"\0\0\0\5again")
        assert await closed_by_peer(first)
        await until(lambda: two.heard == [(b"again", address(1))])
        assert two.connections == 1
        first.close()
        second.close()


async def test_who_has_a_peers_address_and_no_key_ends_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Peers are firewalls: what they masquerade comes from their address."""
    async with nodes(2, absent=(1,)) as (two,):
        peer = await call(1, two)
        peer.send(b"\0\0\0\4good")
        await until(lambda: len(two.heard) == 1)
        said = len(caplog.records)
        strangers = [await call(1, two) for _ in range(20)]
        for stranger in strangers[10:]:
            stranger.send(b"\0\0\0\6forged")
        await until(lambda: len(two.heard) >= 9)
        for stranger in strangers[:12]:
            assert await closed_by_peer(stranger)
        assert two.connections == 1
        assert await two.link.send([b"to the peer"]) == 1
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(peer, 100) == b"\0\0\0\x0bto the peer"
        for stranger in strangers:
            stranger.close()
        await asyncio.sleep(0.05)
        assert len(caplog.records) == said
        peer.close()


async def test_a_peer_is_let_in_though_somebody_without_the_key_came_first() -> None:
    async with nodes(2, absent=(1,)) as (two,):
        stranger = await call(1, two)
        stranger.send(b"\0\0\0\6forged")
        await until(lambda: len(two.heard) == 1)
        peer = await call(1, two)
        peer.send(b"\0\0\0\4good")
        assert await closed_by_peer(stranger)
        assert await two.link.send([b"to the peer"]) == 1
        stranger.close()
        peer.close()


@pytest.mark.parametrize("source", [9, 3])
async def test_who_is_no_peer_that_dials_is_turned_away(source: int) -> None:
    async with nodes(2, absent=(1, 3)) as (two,):
        for count in range(1, 50):
            stranger = await call(source, two)
            assert await closed_by_peer(stranger)
            stranger.close()
            assert two.link.status().rejected_frames == count
        assert two.connections == 0


@pytest.mark.parametrize("length", [0, LENGTH_LIMIT + 1, 1 << 31, (1 << 32) - 1])
async def test_a_length_that_cannot_be_ends_the_connection(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(2, absent=(1,)) as (two,):
        for count in (1, 2):
            peer = await call(1, two)
            peer.send(b"\0\0\0\4good" + length.to_bytes(4) + b"rest")
            assert await closed_by_peer(peer)
            peer.close()
            assert two.link.status().broken_streams == count
        await until(lambda: two.connections == 0)
        assert not any(record.exc_info for record in caplog.records)
        said = [record.getMessage() for record in caplog.records]
        assert sum("sent no frame" in line for line in said) == 1


async def test_a_datagram_may_arrive_in_pieces_and_many_at_once() -> None:
    async with nodes(2, absent=(1,)) as (two,):
        peer = await call(1, two)
        whole = b"\0\0\0\3one\0\0\0\3two"
        for at in range(len(whole)):
            peer.send(whole[at : at + 1])
            await asyncio.sleep(0.001)
        peer.send(b"\0\0\0\4many" * 1000)
        await until(lambda: len(two.heard) == 1002)
        assert [datagram for datagram, _ in two.heard[:3]] == [b"one", b"two", b"many"]
        peer.close()


async def test_a_peer_that_reads_nothing_delays_nobody_and_memory_is_bounded() -> None:
    async with nodes(2, 3, absent=(1,)) as (two, three):
        silent = await call(1, two)
        await until(lambda: two.connections == 2)
        datagrams = [bytes(1400)] * 64
        for count in range(1, 101):
            assert await two.link.send(datagrams) == 64
            await until(lambda: len(three.heard) == 64 * count)  # noqa: B023 - at once
        assert two.link.send_errors > 0
        silent.close()


async def test_what_is_too_long_for_a_frame_does_not_leave() -> None:
    async with nodes(1, 2) as made:
        await until(lambda: made[0].connections == 1)
        limit = made[0].link.frame_bytes
        assert await made[0].link.send([bytes(limit), bytes(limit + 1)]) == 1
        assert made[0].link.send_errors == 1


async def test_an_address_that_is_taken_or_absent_is_waited_for() -> None:
    async with nodes(2, absent=(1,)) as (two,):
        config = two.link.config
        second = Node(TcpLink(config, lambda _: True))
        second.plug_in()
        assert second.link.reason == "Address already in use, trying again"
        two.link.close()
        await until(lambda: second.link.reason == "no peer is connected")
        second.link.interface_changed(1, 65536, ["127.0.0.1"])
        assert second.link.reason == f"the address {address(2)} is not there"
        second.link.close()
