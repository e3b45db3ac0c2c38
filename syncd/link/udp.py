"""One link over UDP: a multicast group, or unicast to a list of peers.

In: datagrams to send, datagrams from the wire, and facts about the interface (index,
MTU, addresses), which the daemon passes on. Out: batches of (datagram, source address)
and counters. The rule: a link never fails, it waits. Without its interface it is
"waiting" and sends nothing; it opens its sockets by itself when the interface comes,
also when it comes again under the same name and a new index.

Receiving is a plain reader for both types: a lone datagram is handed on at once; under
load the reader gives way to a timer, so that there is one wake-up and one batch per
`pace_s`; a burst costs 1.4 us per datagram. asyncio-dgram would wake once per datagram
into a queue without a bound, and a unicast link carries the load of a multicast one.

Every send goes through asyncio-dgram, where awaiting is the backpressure. It costs 3.3
to 4.4 us for a datagram of 1400 bytes (which carries tens of flows), a plain `send` 1.4
to 2.4 us (medians and best of two series of 7 x 20 000, kernel, bridge and veth
included). Two things to know about it: an error comes with the *next* send, see
`_put`; and it reads its socket into a queue without a bound, so the sending sockets are
made deaf by a socket filter and are not connected.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence

from asyncio_dgram.aio import DatagramServer, TransportClosed, from_socket

from syncd.config_link import LinkConfig
from syncd.link.facts import Batch, LinkState, LinkStatus, Totals
from syncd.link.sockets import (
    Address,
    count_drops,
    open_receiver,
    open_sender,
    parse,
    plain,
    resolve,
)

_LOG = logging.getLogger("syncd.link")
_UDP_LIMIT = 65507  # the most that fits into one datagram over IPv4
_HEADERS = {4: 20 + 8, 6: 40 + 8}
_SMALLEST_MTU = {4: 576, 6: 1280}
_USUAL_MTU = 1500
_BATCH_LIMIT = 512
_PATIENCE_S = 1.0
_RETRY_S = 1.0


class UdpLink:
    """One configured link; `interface_changed` brings it to life."""

    def __init__(
        self,
        config: LinkConfig,
        on_datagrams: Callable[[Batch], object],
        pace_s: float = 0.002,
    ) -> None:
        self.config = config
        self.name = config.interface or config.local
        self.state = LinkState.WAITING
        self.reason = "interface not seen yet"
        self.sent_bytes = 0
        self.sent_frames = 0
        self.send_errors = 0
        self._deliver = on_datagrams
        self._pace_s = pace_s
        self._multicast = config.type == "multicast"
        targets = (config.group,) if self._multicast else config.peers
        self._targets = tuple(ipaddress.ip_address(target) for target in targets)
        self._local = ipaddress.ip_address(config.local) if config.local else None
        self._peers = frozenset(plain(target) for target in self._targets)
        self._version = max((target.version for target in self._targets), default=4)
        self._index: int | None = None
        self._mtu = 0
        self._addresses: frozenset[str] = frozenset()
        self._inlets: list[_Inlet] = []
        self._outlets: list[_Outlet] = []
        self._sending = asyncio.Lock()
        self._retry: asyncio.TimerHandle | None = None
        self._said: set[int] = set()
        self._totals = Totals()

    @property
    def frame_bytes(self) -> int:
        """The largest datagram that leaves without being cut into fragments."""
        mtu = max(self._mtu, _SMALLEST_MTU[self._version])
        if not self.config.interface:
            mtu = min(mtu, _USUAL_MTU)  # any interface may be on the way
        return min(mtu - _HEADERS[self._version], _UDP_LIMIT)

    def interface_changed(
        self, index: int | None, mtu: int, addresses: Collection[str]
    ) -> None:
        """The facts about the interface; `index` is None when it is absent or down."""
        moved = index != self._index
        self._index = index
        self._mtu = mtu
        self._addresses = frozenset(plain(parse(address)) for address in addresses)
        reason = self._obstacle()
        if self.state is LinkState.ACTIVE and (moved or reason):
            self._shut(reason or "interface was replaced")
        if self.state is LinkState.WAITING:
            self._open()

    async def send(self, datagrams: Sequence[bytes]) -> int:
        """Send all, return how many left; what did not is counted, never raised.

        With several peers a datagram has left when one of them was sent it.
        """
        limit = self.frame_bytes
        fitting = [datagram for datagram in datagrams if len(datagram) <= limit]
        if len(fitting) < len(datagrams):
            self._count_failures(errno.EMSGSIZE, len(datagrams) - len(fitting))
        async with self._sending:
            outlets = self._outlets
            before = self.send_errors
            tried, trouble = await self._put_all(outlets, fitting)
            for outlet in outlets:
                outlet.settle(self._count_failures)
            refused = self.send_errors - before
        if trouble:
            self._count_failures(trouble, len(fitting) - tried)
        ways = sum(len(outlet.destinations) for outlet in outlets)
        if ways == 0:
            return 0
        sent = max(0, tried - refused // ways)
        self.sent_frames += sent
        self.sent_bytes += sum(map(len, fitting[:sent]))
        return sent

    def status(self) -> LinkStatus:
        inlets, totals = self._inlets, self._totals
        return LinkStatus(
            interface=self.name,
            type=self.config.type,
            state=self.state,
            reason=self.reason,
            frame_bytes=self.frame_bytes,
            receive_buffer=min((inlet.buffer for inlet in inlets), default=0),
            send_buffer=min((outlet.buffer for outlet in self._outlets), default=0),
            sent_bytes=self.sent_bytes,
            sent_frames=self.sent_frames,
            send_errors=self.send_errors,
            received_bytes=totals.received_bytes,
            received_frames=totals.received_frames,
            rejected_frames=totals.rejected_frames,
            kernel_drops=totals.kernel_drops + sum(inlet.drops() for inlet in inlets),
        )

    def close(self) -> None:
        """Close the sockets; the link stays silent from now on."""
        self._index = None
        self.reason = "closed"  # not worth a line in the log
        self._shut(self.reason)

    async def _put_all(
        self, outlets: "list[_Outlet]", datagrams: list[bytes]
    ) -> tuple[int, int]:
        """Try all in bounded time: how many were tried, and what ended it early."""
        tried = 0
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for datagram in datagrams:
                    for outlet in outlets:
                        await outlet.put(datagram, self._count_failures)
                    tried += 1
        except TimeoutError:
            return tried, errno.ETIMEDOUT
        except TransportClosed:
            if self._outlets is outlets:
                self._shut("the socket was lost")
                self._open()
            return tried, errno.EBADF
        return tried, 0

    def _obstacle(self) -> str:
        """Why the link cannot be active, or nothing."""
        if self._index is None:
            if not self.config.interface:
                return f"no interface that is up has the address {self.config.local}"
            return "the interface is absent or down"
        if self._multicast:
            versions = {parse(address).version for address in self._addresses}
            if self._version not in versions:
                return f"the interface has no IPv{self._version} address"
        elif self._local is not None and plain(self._local) not in self._addresses:
            return f"the address {self.config.local} is not there"
        return ""

    def _open(self) -> None:
        self._forget_retry()
        obstacle = self._obstacle()
        if obstacle or self._index is None:
            self._wait(obstacle)
            return
        try:
            for version in sorted({target.version for target in self._targets}):
                self._open_family(version, self._index)
        except OSError as error:
            self._shut(os.strerror(error.errno or 0) + ", trying again")
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(_RETRY_S, self._open)
            return
        self.state = LinkState.ACTIVE
        self.reason = ""
        self._said.clear()
        _LOG.info(
            "%s: %s link is active, %d bytes per frame",
            *(self.name, self.config.type, self.frame_bytes),
        )

    def _open_family(self, version: int, index: int) -> None:
        targets = [target for target in self._targets if target.version == version]
        local = self._local if self._local and self._local.version == version else None
        destinations = [resolve(target, self.config, index) for target in targets]
        self._outlets.append(
            _Outlet(open_sender(self.config, version, local, index), destinations)
        )
        accepted = None if self._multicast else self._peers
        self._inlets.append(
            _Inlet(
                open_receiver(self.config, version, local, index),
                lambda batch: self._admit(batch, accepted),
                self._pace_s,
            )
        )

    def _admit(self, batch: Batch, accepted: frozenset[str] | None) -> None:
        own = self._addresses
        kept = [
            pair
            for pair in batch
            if pair[1] not in own and (accepted is None or pair[1] in accepted)
        ]
        totals = self._totals
        totals.rejected_frames += len(batch) - len(kept)
        if kept:
            totals.received_frames += len(kept)
            totals.received_bytes += sum(len(datagram) for datagram, _ in kept)
            self._deliver(kept)

    def _forget_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _shut(self, reason: str) -> None:
        self._forget_retry()
        for inlet in self._inlets:
            self._totals.kernel_drops += inlet.drops()
            inlet.close()
        for outlet in self._outlets:
            outlet.close()
        self._inlets = []
        self._outlets = []
        self._wait(reason)

    def _wait(self, reason: str) -> None:
        self.state = LinkState.WAITING
        if reason != self.reason:
            self.reason = reason
            _LOG.warning(
                "%s: %s link is waiting: %s", self.name, self.config.type, reason
            )

    def _count_failures(self, number: int, count: int) -> None:
        """Count what did not leave; each reason is logged once per active time."""
        self.send_errors += count
        if number not in self._said:
            self._said.add(number)
            _LOG.warning("%s: sending: %s", self.name, os.strerror(number))


class _Inlet:
    """A receiving socket, drained in batches at its own pace."""

    def __init__(
        self, sock: socket.socket, deliver: Callable[[Batch], None], pace_s: float
    ) -> None:
        self._socket = sock
        self._deliver = deliver
        self._pace_s = pace_s
        self._woken = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._wake)
        self.buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def drops(self) -> int:
        return count_drops(self._socket)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _wake(self) -> None:
        now = self._loop.time()
        busy = now - self._woken < self._pace_s
        self._woken = now
        batch = self._drain()
        if busy or len(batch) == _BATCH_LIMIT:
            self._loop.remove_reader(self._socket)
            self._timer = self._loop.call_later(self._pace_s, self._tick)
        if batch:
            self._deliver(batch)

    def _tick(self) -> None:
        batch = self._drain()
        if batch:
            self._timer = self._loop.call_later(self._pace_s, self._tick)
            self._deliver(batch)
        else:
            self._timer = None
            self._loop.add_reader(self._socket, self._wake)

    def _drain(self) -> Batch:
        batch: Batch = []
        receive = self._socket.recvfrom
        with contextlib.suppress(OSError):  # empty; or an error of the interface,
            for _ in range(_BATCH_LIMIT):  # of which the daemon hears on its own
                datagram, source = receive(65535)
                batch.append((datagram, source[0]))
        return batch


class _Outlet:
    """A sending socket and the addresses that each datagram goes to."""

    def __init__(self, sock: socket.socket, destinations: list[Address]) -> None:
        self.destinations = destinations
        self.buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        self._socket = sock
        self._stream: DatagramServer | None = None

    async def put(self, datagram: bytes, failed: Callable[[int, int], None]) -> None:
        """Send to all destinations, waiting for room."""
        stream = self._stream or await self._open_stream()
        for destination in self.destinations:
            while True:
                try:
                    await stream.send(datagram, destination)
                    break
                except OSError as error:  # of an earlier one; this one was not tried
                    failed(error.errno or 0, 1)

    def settle(self, failed: Callable[[int, int], None]) -> None:
        """Report the errors that no later `put` has brought up."""
        while self._stream is not None:
            try:
                self._stream.exception  # noqa: B018 - a property that raises
                return
            except OSError as error:
                failed(error.errno or 0, 1)

    def close(self) -> None:
        if self._stream is not None:
            # `close` would wait until what is buffered has left, on an interface
            # that may never take it; there is no public way to drop it.
            self._stream._transport.abort()  # type: ignore[attr-defined] # untyped
        else:
            self._socket.close()

    async def _open_stream(self) -> DatagramServer:
        if self._socket.fileno() < 0:
            raise TransportClosed
        stream = await from_socket(self._socket)
        assert isinstance(stream, DatagramServer)
        if self._socket.fileno() < 0:  # the link was shut while we waited
            stream.close()
            raise TransportClosed
        self._stream = stream
        return stream
