"""The program that runs in the client's and in the server's namespace.

One word a line comes in on stdin: `watch` (the failover is about to begin), `moved`
(it is done), `stop`.  JSON objects, one a line, go out on stdout: `open` for each
connection, `sample` each second, one `report` at the end.  The rule: an endpoint knows
nothing of firewalls.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

from .ftp import FtpServer, FtpSession
from .plan import (
    CLIENT,
    CLIENT_V4,
    FORWARDED_PORT,
    INNER_PORT,
    MASQUERADE_PORT,
    SERVER_V4,
    SERVER_V6,
    UDP_PORT,
    V6_PORT,
    WAN_V4,
)
from .streams import BEAT_S, Datagrams, Report, Stream

CONNECT_ATTEMPTS = 50
FINISH_S = 2.0


def say(event: str, **more: object) -> None:
    """Write one event line."""
    print(json.dumps({"event": event, **more}), flush=True)


class Endpoint:
    """All connections of one host, and their common beat."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.datagrams = Datagrams()
        self.ftp_server: FtpServer | None = None
        self.ftp_session: FtpSession | None = None
        self._listeners: list[asyncio.Server] = []

    async def open_client(self) -> None:
        """Open what the inner host opens, accept what is forwarded to it."""
        loop = asyncio.get_running_loop()
        await self._listen("forward", CLIENT_V4, INNER_PORT)
        await self._connect("masquerade", SERVER_V4, MASQUERADE_PORT)
        await self._connect("v6", SERVER_V6, V6_PORT)
        self.datagrams = Datagrams((SERVER_V4, UDP_PORT))
        await loop.create_datagram_endpoint(
            lambda: self.datagrams, local_addr=(CLIENT_V4, 0)
        )
        self.ftp_session = FtpSession(
            lambda: loop.call_soon_threadsafe(say_open, "ftp")
        )
        self.ftp_session.start()

    async def open_server(self) -> None:
        """Accept what the client opens, open the forwarded connection."""
        loop = asyncio.get_running_loop()
        await self._listen("masquerade", SERVER_V4, MASQUERADE_PORT)
        await self._listen("v6", SERVER_V6, V6_PORT)
        await loop.create_datagram_endpoint(
            lambda: self.datagrams, local_addr=(SERVER_V4, UDP_PORT)
        )
        self.ftp_server = FtpServer()
        self._listeners.append(await self.ftp_server.start())
        say("listening")
        await self._connect("forward", WAN_V4, FORWARDED_PORT)

    async def beat(self) -> None:
        """Send on every connection, on and on."""
        while True:
            for stream in self.streams.values():
                stream.beat()
            self.datagrams.beat()
            await asyncio.sleep(BEAT_S)

    async def announce(self) -> None:
        """Say which connections are open, then what arrives each second."""
        for name, stream in self.streams.items():
            await stream.opened.wait()
            say_open(name)
        await self.datagrams.opened.wait()
        say_open("udp")
        while True:
            await asyncio.sleep(1)
            counts = {name: s.arrivals.count for name, s in self.streams.items()}
            counts["udp"] = self.datagrams.arrivals.count
            if self.ftp_session is not None:
                counts["ftp"] = self.ftp_session.answers
            say("sample", received=counts)

    def watch(self) -> None:
        """Measure silences from now on."""
        for stream in self.streams.values():
            stream.arrivals.watching = True
        self.datagrams.arrivals.watching = True
        if self.ftp_session is not None:
            self.ftp_session.watch.set()

    def moved(self) -> None:
        """Open what is to be opened after the failover."""
        if self.ftp_session is not None:
            self.ftp_session.failed_over.set()

    async def finish(self) -> None:
        """End all connections as far as the path lets them end."""
        if self.ftp_session is not None:
            self.ftp_session.stopped.set()
        for stream in self.streams.values():
            stream.finish()
        try:
            async with asyncio.timeout(FINISH_S):
                for stream in self.streams.values():
                    await stream.ended.wait()
        except TimeoutError:
            pass  # the report says which did not end
        if self.ftp_server is not None:
            await self.ftp_server.close()

    def reports(self) -> dict[str, Report]:
        """Return each connection's report."""
        reports = {name: stream.report() for name, stream in self.streams.items()}
        reports["udp"] = self.datagrams.report()
        if self.ftp_session is not None:
            reports["ftp"] = self.ftp_session.report()
        if self.ftp_server is not None:
            reports["ftp"] = self.ftp_server.report()
        return reports

    async def _listen(self, name: str, address: str, port: int) -> None:
        stream = self.streams[name] = Stream()
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_server(lambda: stream, address, port))

    async def _connect(self, name: str, address: str, port: int) -> None:
        stream = self.streams[name] = Stream()
        loop = asyncio.get_running_loop()
        for _ in range(CONNECT_ATTEMPTS):
            try:
                await loop.create_connection(lambda: stream, address, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)  # the other host starts up
            else:
                return


def say_open(name: str) -> None:
    """Say that a connection is open."""
    say("open", name=name)


async def run(role: str) -> None:
    """Open everything, then follow the words on stdin until `stop` or the end."""
    endpoint = Endpoint()
    await (endpoint.open_client() if role == CLIENT else endpoint.open_server())
    tasks = [
        asyncio.create_task(endpoint.beat()),
        asyncio.create_task(endpoint.announce()),
    ]
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(words), sys.stdin
    )
    verbs: dict[bytes, Callable[[], None]] = {
        b"watch": endpoint.watch,
        b"moved": endpoint.moved,
    }
    while (word := (await words.readline()).strip()) in verbs:
        verbs[word]()
    tasks[1].cancel()
    await endpoint.finish()
    say("report", reports=endpoint.reports())
    tasks[0].cancel()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
