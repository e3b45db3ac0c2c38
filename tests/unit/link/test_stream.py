"""One TCP connection: as much at a time as lets everybody work."""

import asyncio
import socket

import pytest
from syncd.link.stream import Connection

TINY = b"\x00\x00\x00\x01x"


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.visits: list[int] = []
        self.broken = 0

    def arrived(self, _connection: Connection, datagrams: list[bytes]) -> None:
        self.visits.append(len(datagrams))

    def broke(self, _connection: Connection) -> None:
        self.broken += 1

    def ended(self, _connection: Connection) -> None:
        pass


async def connected(owner: Owner) -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    _, connection = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: Connection(owner, "peer", 1 << 16), ours
    )
    return connection, theirs


async def until(count: int, owner: Owner) -> None:
    while sum(owner.visits) < count:  # noqa: ASYNC110 - every turn of the loop counts
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_flood_of_tiny_frames_is_taken_bit_by_bit_in_order() -> None:
    owner = Owner()
    connection, theirs = await connected(owner)
    with theirs:
        connection.data_received(TINY * 5000 + TINY[:3])  # one read
        assert owner.visits == [512]
        await until(5000, owner)
        assert max(owner.visits) == 512
        theirs.sendall(TINY[3:])  # it is read from again
        await until(5001, owner)
        assert owner.broken == 0
        connection.abort()
        await connection.closed


@pytest.mark.asyncio
async def test_nothing_of_a_flood_is_taken_after_the_connection_was_ended() -> None:
    owner = Owner()
    connection, theirs = await connected(owner)
    with theirs:
        connection.data_received(TINY * 5000)
        connection.abort()
        await connection.closed
        await asyncio.sleep(0)
        assert owner.visits == [512]
