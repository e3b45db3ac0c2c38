"""One TCP link: a connection to each peer, for networks that carry no UDP.

In: a link's configuration, the state of its interface, datagrams to send. Out:
datagrams of the peers in batches. The rule: one connection per pair of nodes, dialled
by the one with the lower address; a newer connection of a peer replaces its older one
when a frame of a life that goes on has come over it: an address alone proves nothing,
and neither does a frame that somebody recorded.
A peer that does not take what it is sent delays nobody: what does not fit into its
bounded buffer is dropped and counted, and the replication marks those flows again.

Frames bring their own encryption. Whoever connects from an address that is not a
peer's is turned away.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import random
import socket
from collections.abc import Callable, Collection, Coroutine, Sequence
from itertools import chain

from syncd.config_link import LinkConfig
from syncd.link.facts import Batch, LinkState, LinkStatus, Totals
from syncd.link.sockets import (
    IpAddress,
    open_dialler,
    open_listener,
    parse,
    plain,
    prepare_stream,
    resolve,
)
from syncd.link.stream import Connection, accept_all, connect

_LOG = logging.getLogger("syncd.link")
_FRAME_BYTES = 4096  # no MTU limits a stream; a larger frame saves little
_UNSENT_LIMIT = 1 << 20  # bytes of one peer beside the kernel's buffer: a full window
_ACCEPT_LIMIT = 16  # connections taken at once, and half-made ones
_RIVALS_LIMIT = 8  # newer connections of one peer that have not proved themselves
_RIVAL_DATAGRAMS = 16  # the last ones of a batch: all HELLOs are among them
_CONNECT_S = 3.0
_RETRY_S = 1.0
_BACK_OFF_S = (0.1, 5.0)  # first and longest wait before the next call


class TcpLink:
    """One configured link; `interface_changed` brings it to life."""

    def __init__(
        self,
        config: LinkConfig,
        on_datagrams: Callable[[Batch], bool],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_datagrams` says whether one of them was genuine."""
        self.config = config
        self.name = config.interface or config.local
        self.state = LinkState.WAITING
        self.reason = "interface not seen yet"
        self.sent_bytes = 0
        self.sent_frames = 0
        self.send_errors = 0
        self.frame_bytes = _FRAME_BYTES
        self._deliver = on_datagrams
        self._changed = on_change
        self._local: IpAddress = ipaddress.ip_address(config.local)
        self._peers = {
            plain(address): address
            for address in map(ipaddress.ip_address, config.peers)
        }
        self._index: int | None = None
        self._addresses: frozenset[str] = frozenset()
        self._listener: socket.socket | None = None
        self._connections: dict[str, Connection] = {}
        self._rivals: dict[str, list[Connection]] = {}  # newer ones, the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._said: set[str] = set()
        self._totals = Totals()

    def interface_changed(
        self, index: int | None, _mtu: int, addresses: Collection[str]
    ) -> None:
        """The facts about the interface; `index` is None when it is absent or down."""
        moved = index != self._index
        self._index = index
        self._addresses = frozenset(plain(parse(address)) for address in addresses)
        obstacle = self._obstacle()
        if self._listener is not None and (moved or obstacle):
            self._shut(obstacle or "interface was replaced")
        if self._listener is None:
            self._open()

    async def send(self, datagrams: Sequence[bytes]) -> int:
        """Send all to every peer, return how many left; nothing is waited for.

        With several peers a datagram has left when one of them was sent it.
        """
        fitting = [item for item in datagrams if len(item) <= self.frame_bytes]
        if len(fitting) < len(datagrams):
            self._count_failures(
                os.strerror(errno.EMSGSIZE), len(datagrams) - len(fitting)
            )
        sent = 0
        for peer, connection in list(self._connections.items()):
            if connection.closing:  # what that costs is told again
                continue
            taken = connection.send(fitting)
            if taken < len(fitting):
                self._count_failures(
                    f"{peer} does not take what it is sent", len(fitting) - taken
                )
            sent = max(sent, taken)
        for rival in chain(*self._rivals.values()):
            rival.send(fitting[-_RIVAL_DATAGRAMS:])  # what it has to answer to
        self.sent_frames += sent
        self.sent_bytes += sum(map(len, fitting[:sent]))
        return sent

    def status(self) -> LinkStatus:
        totals = self._totals
        return LinkStatus(
            interface=self.name,
            type=self.config.type,
            state=self.state,
            reason=self.reason,
            frame_bytes=self.frame_bytes,
            receive_buffer=self.config.receive_buffer if self._connections else 0,
            send_buffer=_UNSENT_LIMIT if self._connections else 0,
            sent_bytes=self.sent_bytes,
            sent_frames=self.sent_frames,
            send_errors=self.send_errors,
            received_bytes=totals.received_bytes,
            received_frames=totals.received_frames,
            rejected_frames=totals.rejected_frames,
            kernel_drops=0,
            connections=len(self._connections),
            broken_streams=totals.broken_streams,
        )

    def close(self) -> None:
        """Close all connections; the link stays silent from now on."""
        self._index = None
        self.reason = "closed"  # not worth a line in the log
        self._changed = lambda: None
        self._shut(self.reason)

    # What connections tell

    def arrived(self, connection: Connection, datagrams: list[bytes]) -> None:
        """Datagrams of a peer; a connection that was replaced has no say."""
        peer = connection.peer
        rivals = self._rivals.get(peer, [])
        if self._connections.get(peer) is not connection and connection not in rivals:
            return
        self._totals.received_frames += len(datagrams)
        self._totals.received_bytes += sum(map(len, datagrams))
        genuine = self._deliver([(datagram, peer) for datagram in datagrams])
        if genuine and not connection.proven:
            self._proved(connection)

    def broke(self, connection: Connection) -> None:
        """The peer sent a length that cannot be."""
        self._totals.broken_streams += 1
        self._say_once(f"{connection.peer} sent no frame: connection closed")

    def ended(self, connection: Connection) -> None:
        """A connection is closed."""
        peer = connection.peer
        rivals = self._rivals.get(peer, [])
        if connection in rivals:
            rivals.remove(connection)
        if self._connections.get(peer) is not connection:
            return
        del self._connections[peer]
        if connection.proven:
            _LOG.warning("%s: %s is disconnected", self.name, peer)
        if rivals:
            self._connections[peer] = rivals.pop()
        self._follow_connections()

    def _proved(self, connection: Connection) -> None:
        """A genuine frame came over it: it is the peer's from now on."""
        peer = connection.peer
        before = self._connections.get(peer)
        if before is None or self._listener is None:
            return  # it was closed by what the frame said
        connection.proven = True
        _LOG.info("%s: %s is connected", self.name, peer)
        if before is not connection:
            self._rivals[peer].remove(connection)
            self._connections[peer] = connection
            before.abort()

    # Opening and closing

    def _obstacle(self) -> str:
        if self._index is None:
            if not self.config.interface:
                return f"no interface that is up has the address {self.config.local}"
            return "the interface is absent or down"
        if plain(self._local) not in self._addresses:
            return f"the address {self.config.local} is not there"
        return ""

    def _open(self) -> None:
        self._forget_retry()
        obstacle = self._obstacle()
        if obstacle or self._index is None:
            self._wait(obstacle)
            return
        try:
            listener = open_listener(self.config, self._local, self._index)
        except OSError as error:
            self._wait(os.strerror(error.errno or 0) + ", trying again")
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(_RETRY_S, self._open)
            return
        self._listener = listener
        self._said.clear()
        asyncio.get_running_loop().add_reader(
            listener, accept_all, listener, self._accepted, _ACCEPT_LIMIT
        )
        for peer, address in self._peers.items():
            if self._local < address:  # type: ignore[operator] # of one version
                self._run(self._dial(peer, address, self._index))
        self._wait("no peer is connected")

    def _shut(self, reason: str) -> None:
        self._forget_retry()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        connections = [*self._connections.values(), *chain(*self._rivals.values())]
        self._connections, self._rivals = {}, {}
        for connection in connections:
            connection.abort()
        self._wait(reason)

    def _forget_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, peer: str, address: IpAddress, index: int) -> None:
        """Connect, wait until that has ended, connect again."""
        wait_s = _BACK_OFF_S[0]
        while True:
            try:
                sock = open_dialler(self.config, self._local, index)
                await connect(sock, resolve(address, self.config, index), _CONNECT_S)
                connection = await self._take(sock, peer)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                self._say_once(f"{peer}: {reason}, trying again")
            else:
                await connection.closed
                if connection.heard:
                    wait_s = _BACK_OFF_S[0]
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            wait_s = min(2 * wait_s, _BACK_OFF_S[1])

    def _accepted(self, sock: socket.socket, source: str) -> None:
        address = self._peers.get(source)
        expected = address is not None and address < self._local  # type: ignore[operator] # of one version
        if not expected or len(self._tasks) >= _ACCEPT_LIMIT + len(self._peers):
            self._totals.rejected_frames += 1
            self._say_once(f"{source} is not a peer that dials: turned away")
            sock.close()
            return
        self._run(self._take_accepted(sock, source))

    async def _take_accepted(self, sock: socket.socket, peer: str) -> None:
        with contextlib.suppress(OSError):  # closed by the peer meanwhile
            await self._take(sock, peer)

    async def _take(self, sock: socket.socket, peer: str) -> Connection:
        """Make it the connection of that peer, or a rival of the one that it has."""
        try:
            prepare_stream(sock, self.config)
            _, connection = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self, peer, _UNSENT_LIMIT), sock
            )
        except BaseException:
            sock.close()
            raise
        if peer not in self._connections:
            self._connections[peer] = connection
            self._follow_connections()
            return connection
        rivals = self._rivals.setdefault(peer, [])
        rivals.append(connection)
        if len(rivals) > _RIVALS_LIMIT:
            rivals.pop(0).abort()
        return connection

    def _follow_connections(self) -> None:
        """The link can be used while a peer is connected."""
        if self._connections:
            self.state = LinkState.ACTIVE
            self.reason = ""
        elif self._listener is not None:
            self._wait("no peer is connected")
        self._changed()

    def _wait(self, reason: str) -> None:
        self.state = LinkState.WAITING
        if reason != self.reason:
            self.reason = reason
            _LOG.warning("%s: tcp link is waiting: %s", self.name, reason)

    def _count_failures(self, reason: str, count: int) -> None:
        self.send_errors += count
        self._say_once(f"sending: {reason}")

    def _say_once(self, text: str) -> None:
        """Each reason is logged once per time that the link is open."""
        if text not in self._said and len(self._said) < 64:
            self._said.add(text)
            _LOG.warning("%s: %s", self.name, text)
