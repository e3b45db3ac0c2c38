"""One TCP connection: datagrams as a stream.

    4 bytes   length of the datagram, most significant byte first, 1..65535
    n bytes   the datagram, as it would leave over UDP

In: bytes as they arrive, datagrams to send. Out: whole datagrams. The rule: a length
that cannot be ends the connection, and what cannot be sent soon is not kept.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

LENGTH_LIMIT = 65535
_PREFIX_BYTES = 4
_FRAMES_AT_ONCE = 512  # as many as a UDP link takes; a read may hold 50 000 tiny ones


class Owner(Protocol):
    """What a connection tells the link that it belongs to."""

    def arrived(self, connection: "Connection", datagrams: list[bytes]) -> None:
        """Whole datagrams have come."""

    def broke(self, connection: "Connection") -> None:
        """A length that cannot be has come; the connection is being closed."""

    def ended(self, connection: "Connection") -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """One peer, connected; the socket is given to a transport."""

    def __init__(self, owner: Owner, peer: str, unsent_limit: int) -> None:
        self.peer = peer
        self.closed = asyncio.get_running_loop().create_future()
        self.heard = False  # has a whole datagram come?
        self.proven = False  # has a genuine one?
        self._owner = owner
        self._unsent_limit = unsent_limit
        self._transport: asyncio.Transport | None = None
        self._waiting = bytearray()
        self._resting = False  # is nothing read until what waits is taken?

    @property
    def closing(self) -> bool:
        """Does nothing leave any more?"""
        return self._transport is None or self._transport.is_closing()

    def send(self, datagrams: Sequence[bytes]) -> int:
        """Put what there is room for on its way; return how many that were."""
        transport = self._transport
        if transport is None or self.closing:
            return 0
        room = self._unsent_limit - transport.get_write_buffer_size()
        parts: list[bytes] = []
        for datagram in datagrams:
            room -= _PREFIX_BYTES + len(datagram)
            if room < 0:
                break
            parts += (len(datagram).to_bytes(_PREFIX_BYTES), datagram)
        if parts:
            transport.write(b"".join(parts))
        return len(parts) // 2

    def abort(self) -> None:
        """End it at once; what is unsent is lost."""
        if self._transport is not None:
            self._transport.abort()
        elif not self.closed.done():
            self.closed.set_result(None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        if not self._resting:
            self._take()

    def _take(self) -> None:
        """Hand some datagrams on; if more are left, let others work before the rest."""
        waiting = self._waiting
        datagrams: list[bytes] = []
        at = 0
        while len(waiting) - at >= _PREFIX_BYTES and len(datagrams) < _FRAMES_AT_ONCE:
            length = int.from_bytes(waiting[at : at + _PREFIX_BYTES])
            if not 1 <= length <= LENGTH_LIMIT:
                waiting.clear()
                self._owner.broke(self)
                self.abort()
                return
            end = at + _PREFIX_BYTES + length
            if end > len(waiting):
                break
            datagrams.append(bytes(waiting[at + _PREFIX_BYTES : end]))
            at = end
        del waiting[:at]
        self._rest(len(datagrams) == _FRAMES_AT_ONCE)
        if datagrams:
            self.heard = True
            self._owner.arrived(self, datagrams)

    def _rest(self, more: bool) -> None:
        """With `more` to take nothing is read, and the next visit comes by itself."""
        transport = self._transport
        if transport is None or self.closing:
            return
        if more:
            asyncio.get_running_loop().call_soon(self._go_on)
        if more and not self._resting:
            transport.pause_reading()
        elif self._resting and not more:
            transport.resume_reading()
        self._resting = more

    def _go_on(self) -> None:
        if not self.closing:
            self._take()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.ended(self)


async def connect(
    sock: socket.socket, address: tuple[object, ...], seconds: float
) -> None:
    """Connect in bounded time; OSError if that fails, and the socket is closed then."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise OSError("no answer") from error
        raise


def accept_all(
    listener: socket.socket, take: Callable[[socket.socket, str], None], limit: int
) -> None:
    """Take the connections that wait, at most so many; errors end the round."""
    with contextlib.suppress(OSError):
        for _ in range(limit):
            sock, source = listener.accept()
            sock.settimeout(0)
            take(sock, str(source[0]).partition("%")[0])
