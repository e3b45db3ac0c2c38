"""The connections of an endpoint: paced TCP streams and a numbered UDP stream.

Bytes arrive from the event loop; what was sent, what arrived (count and SHA-256) and
the longest silence go out as a report.  The rule: a stream sends on every beat in both
directions, so that each silence in what arrives is a silence of the path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import time
from typing import TypeAlias, cast

Report: TypeAlias = dict[str, int | float | str | bool | None]

BEAT_S = 0.005
CHUNK = 8192
UNSENT_LIMIT = 262_144


class Arrivals:
    """When data came: the longest silence since `watch`, and the last moment."""

    def __init__(self) -> None:
        self.count = 0
        self.last = time.monotonic()
        self.longest_s = 0.0
        self.watching = False

    def note(self, size: int) -> None:
        """Count `size` bytes that arrived now."""
        now = time.monotonic()
        if self.watching:
            self.longest_s = max(self.longest_s, now - self.last)
        self.last = now
        self.count += size

    def report(self) -> Report:
        """Return the silences in milliseconds."""
        return {
            "received": self.count,
            "gap_ms": self.longest_s * 1000,
            "silent_ms": (time.monotonic() - self.last) * 1000,
        }


class Stream(asyncio.Protocol):
    """One TCP connection that carries random bytes in both directions."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.transport: asyncio.Transport | None = None
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()
        self._sent = hashlib.sha256()
        self._sent_bytes = 0
        self._received = hashlib.sha256()
        self._finishing = False
        self._error: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport of an accepted or opened connection."""
        assert isinstance(transport, asyncio.Transport)
        if self.transport is not None:
            transport.abort()  # one connection a port
            return
        self.transport = transport
        self.opened.set()

    def data_received(self, data: bytes) -> None:
        """Digest what arrived."""
        self.arrivals.note(len(data))
        self._received.update(data)

    def eof_received(self) -> bool:
        """Note the other end's end; ours comes by `finish`."""
        self._finished_well = True
        self.ended.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the loss of the connection."""
        if exc is not None:
            self._error = str(exc)
        self.ended.set()

    _finished_well = False

    def beat(self) -> None:
        """Send one chunk, unless the path takes nothing at the moment."""
        transport = self.transport
        if transport is None or self._finishing or transport.is_closing():
            return
        if transport.get_write_buffer_size() < UNSENT_LIMIT:
            chunk = os.urandom(CHUNK)
            self._sent.update(chunk)
            self._sent_bytes += CHUNK
            transport.write(chunk)

    def finish(self) -> None:
        """Send no more; say so to the other end."""
        self._finishing = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    def report(self) -> Report:
        """Return counts and digests of both directions."""
        return {
            "sent": self._sent_bytes,
            "sent_sha256": self._sent.hexdigest(),
            "received_sha256": self._received.hexdigest(),
            "complete": self._finished_well,
            "error": self._error,
            **self.arrivals.report(),
        }


class Datagrams(asyncio.DatagramProtocol):
    """A UDP stream: numbered datagrams in both directions between two fixed ends.

    The end without a `peer` takes the first sender as its peer and, like any session
    bound to its addresses, ignores all others.
    """

    _head = struct.Struct(">Q32s")

    def __init__(self, peer: tuple[str, int] | None = None) -> None:
        self.arrivals = Arrivals()
        self.peer = peer
        self.opened = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self._sent = 0
        self._datagrams = 0
        self._highest = 0
        self._strange = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # a cast: until 3.12 the loop's own datagram transport is no DatagramTransport
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Check number and content of one datagram."""
        source = (addr[0], addr[1])
        if self.peer is None:
            self.peer = source
        if source != self.peer or len(data) < self._head.size:
            self._strange += 1
            return
        number, digest = self._head.unpack_from(data)
        content = data[self._head.size :]
        if hashlib.sha256(number.to_bytes(8) + content).digest() != digest:
            self._strange += 1
            return
        self._datagrams += 1
        self._highest = max(self._highest, number)
        self.arrivals.note(len(data))
        self.opened.set()

    def beat(self) -> None:
        """Send the next datagram."""
        if self._transport is None or self.peer is None:
            return
        self._sent += 1
        content = os.urandom(512)
        digest = hashlib.sha256(self._sent.to_bytes(8) + content).digest()
        self._transport.sendto(self._head.pack(self._sent, digest) + content, self.peer)

    def report(self) -> Report:
        """Return how many datagrams arrived, were lost, came from elsewhere."""
        return {
            "datagrams": self._datagrams,
            "lost": self._highest - self._datagrams,
            "strange": self._strange,
            **self.arrivals.report(),
        }
