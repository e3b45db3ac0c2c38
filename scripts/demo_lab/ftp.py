"""A small FTP server and the demo's FTP session.

The session's answers come in; its report goes out.  The rule: everything that is hard
for a firewall happens around the failover: before it, an active transfer (behind NAT
the PORT command is rewritten, so the control connection's sequence numbers are shifted
from then on) and a PASV whose data connection is only opened after it; after it, one
more active transfer, which the new firewall's own helper must understand.
"""

from __future__ import annotations

import asyncio
import ftplib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable

from .plan import FTP_PORT, SERVER_V4
from .streams import Report

FILE_BYTES = 3_000_000
ANSWER_TIMEOUT_S = 10.0
PING_S = 0.02
GOODBYE_S = 1.0

DataLink = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FtpServer:
    """Serves one file by passive and active transfers; binary, one user."""

    def __init__(self) -> None:
        self._content = os.urandom(FILE_BYTES)
        self.transfers = 0
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        """Listen for control connections."""
        return await asyncio.start_server(self._accept, SERVER_V4, FTP_PORT)

    async def close(self) -> None:
        """Give the sessions time to say goodbye, then end them."""
        if self._sessions:
            _, left = await asyncio.wait(self._sessions, timeout=GOODBYE_S)
            for session in left:
                session.cancel()

    def report(self) -> Report:
        """Return the digest that every transfer must have."""
        digest = hashlib.sha256(self._content).hexdigest()
        return {"sha256": digest, "transfers": self.transfers}

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._sessions.add(asyncio.create_task(self._converse(reader, writer)))

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        def answer(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        data: asyncio.Future[DataLink] | None = None
        listener: asyncio.Server | None = None
        answer("220 ready")
        try:
            while line := await reader.readline():
                verb, _, rest = line.decode("latin-1").strip().partition(" ")
                if verb == "PASV":
                    if listener is not None:
                        listener.close()
                    listener, data, port = await self._listen()
                    address = SERVER_V4.replace(".", ",")
                    answer(f"227 passive ({address},{port >> 8},{port & 255})")
                elif verb == "PORT":
                    data = asyncio.ensure_future(self._connect(rest))
                    answer("200 active")
                elif verb == "RETR" and data is not None:
                    answer("150 here it comes")
                    answer(await self._send(data))
                    data = None
                elif verb in ("USER", "PASS"):
                    answer("230 welcome")
                elif verb in ("TYPE", "NOOP"):
                    answer("200 so be it")
                elif verb == "QUIT":
                    answer("221 bye")
                    break
                else:
                    answer("502 not here")
        except ConnectionError:
            pass
        finally:
            if listener is not None:
                listener.close()
            writer.close()

    async def _listen(
        self,
    ) -> tuple[asyncio.Server, asyncio.Future[DataLink], int]:
        accepted: asyncio.Future[DataLink] = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if accepted.done():
                writer.close()
            else:
                accepted.set_result((reader, writer))

        listener = await asyncio.start_server(accept, SERVER_V4, 0)
        return listener, accepted, int(listener.sockets[0].getsockname()[1])

    @staticmethod
    async def _connect(argument: str) -> DataLink:
        numbers = [int(number) for number in argument.split(",")]
        host = ".".join(map(str, numbers[:4]))
        return await asyncio.open_connection(host, numbers[4] << 8 | numbers[5])

    async def _send(self, data: asyncio.Future[DataLink]) -> str:
        try:
            _, writer = await asyncio.wait_for(data, timeout=2.0)
            writer.write(self._content)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            return f"425 no data connection: {error}"
        self.transfers += 1
        return "226 complete"


class FtpSession(threading.Thread):
    """The client's session, in a thread of its own as ftplib waits for answers."""

    def __init__(self, ready: Callable[[], object]) -> None:
        super().__init__(name="ftp", daemon=True)
        self._ready = ready
        self.watch = threading.Event()
        self.failed_over = threading.Event()
        self.stopped = threading.Event()
        self.answers = 0
        self._gap_s = 0.0
        self._digests: dict[str, str] = {}
        self._error: str | None = None
        self._phase = "login"

    def run(self) -> None:
        """Converse until `stopped`; an error ends the session and is reported."""
        try:
            with ftplib.FTP(timeout=ANSWER_TIMEOUT_S) as session:  # noqa: S321
                self._converse(session)
        except (OSError, EOFError, ftplib.Error) as error:
            self._error = f"{self._phase}: {type(error).__name__}: {error}"

    def report(self) -> Report:
        """Return digests of the transfers, the longest silence, and the error."""
        return {
            "before_sha256": self._digests.get("before"),
            "expected_sha256": self._digests.get("expected"),
            "after_sha256": self._digests.get("after"),
            "gap_ms": self._gap_s * 1000,
            "error": self._error,
        }

    def _converse(self, session: ftplib.FTP) -> None:
        session.connect(SERVER_V4, FTP_PORT)
        session.login()
        self._transfer_active(session, "before")
        address = session.makepasv()
        self._phase = "control connection"
        self._ready()
        while not self.failed_over.is_set():
            self._ping(session)
        self._phase = "expected transfer"
        with socket.create_connection(address, timeout=ANSWER_TIMEOUT_S) as data:
            session.sendcmd("RETR file")
            digest = hashlib.sha256()
            while part := data.recv(65536):
                digest.update(part)
        session.voidresp()
        self._digests["expected"] = digest.hexdigest()
        self._transfer_active(session, "after")
        self._phase = "control connection"
        while not self.stopped.is_set():
            self._ping(session)

    def _ping(self, session: ftplib.FTP) -> None:
        asked = time.monotonic()
        session.voidcmd("NOOP")
        self.answers += 1
        if self.watch.is_set():
            self._gap_s = max(self._gap_s, time.monotonic() - asked)
        self.stopped.wait(PING_S)

    def _transfer_active(self, session: ftplib.FTP, name: str) -> None:
        self._phase = f"transfer {name}"
        digest = hashlib.sha256()
        session.set_pasv(False)
        session.retrbinary("RETR file", digest.update)
        self._digests[name] = digest.hexdigest()
