"""The control socket: lines of clients come in, commands go out, answers go back.

A unix stream socket of mode 0600. One JSON object on one line is a command; its
answers are JSON objects, one a line, the last one has "ok"; then the connection is
closed. The rule: no client blocks the daemon. Requests, clients and the time a client
may take to read are bounded; a command that only reads ends when its client has gone
or its time is up, one that changes something always runs to its end. A command that
streams waits for its reader as long as that one lives: it bounds what waits itself.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from typing import Final

from syncd.daemon.commands import Answer, Commands, Request, read_request, refusal
from syncd.errors import ControlError, SyncdError

REQUEST_BYTES: Final = 64 * 1024
CLIENTS: Final = 32
REQUEST_S: Final = 10.0  # time to send the request
READ_S: Final = 30.0  # time to read what is in the buffer
_GRACE_S: Final = 1.0  # the node itself says that the time is up, and knows more
_SLICE_BYTES: Final = 32 * 1024  # answers that are made before others get their turn

_log = logging.getLogger(__name__)


class ControlServer:
    """The asking side is `syncd.cli.client`; `commands` answers."""

    def __init__(
        self,
        path: str,
        commands: Commands,
        failed: Callable[[Exception], None] | None = None,
        *,
        clients: int = CLIENTS,
        read_s: float = READ_S,
        gone_interval_s: float = 0.2,
    ) -> None:
        """`failed` is told of a command's unexpected error (a bug, not a refusal)."""
        self.path = path
        self.requests = 0  # counts all that were understood
        self.refused = 0  # counts requests that were not
        self._commands = commands
        self._failed = failed
        self._clients = clients
        self._read_s = read_s
        self._gone_interval_s = gone_interval_s
        self._server: asyncio.Server | None = None
        self._socket_id: tuple[int, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; refuse with ControlError when another daemon answers at the path."""
        listener = _listen(self.path)
        place = os.stat(self.path)
        self._socket_id = (place.st_dev, place.st_ino)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=REQUEST_BYTES
        )

    async def close(self, patience_s: float = 2.0) -> None:
        """Stop listening, let running commands end for a while, then cancel them."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._unlink()
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _unlink(self) -> None:
        """Remove the socket if it is still ours."""
        with contextlib.suppress(OSError):
            place = os.stat(self.path)
            if self._socket_id == (place.st_dev, place.st_ino):
                os.unlink(self.path)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = _Client(reader, writer, self._read_s)
        self._tasks.add(task)
        try:
            _check_peer(writer)
            if len(self._tasks) > self._clients:
                raise ControlError(
                    f"busy with {self._clients} other clients, try later"
                )
            request = await client.request()
            self.requests += 1
            await self._run(client, request)
        except ControlError as error:
            self.refused += 1
            await client.send(refusal(error))
        except asyncio.CancelledError:
            # Only close() cancels us; a cancelled task would be logged by asyncio.
            client.abort()
        finally:
            await client.close()
            self._tasks.discard(task)

    async def _run(self, client: "_Client", request: Request) -> None:
        limit_s = request.timeout_s
        if limit_s is not None:
            limit_s += min(limit_s, _GRACE_S)
        pump = asyncio.create_task(self._pump(client, request))
        watch = asyncio.create_task(client.gone(self._gone_interval_s))
        try:
            await asyncio.wait(
                (pump, watch),
                timeout=limit_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not pump.done() and request.reads:
                pump.cancel()
                await asyncio.wait((pump,))
            if pump.cancelled() or not pump.done():
                await self._leave(client, request, gone=watch.done())
            if not pump.done():
                await pump
        finally:
            for task in (pump, watch):
                task.cancel()
            await asyncio.gather(pump, watch, return_exceptions=True)

    async def _leave(self, client: "_Client", request: Request, *, gone: bool) -> None:
        """Tell the client, if it is there, that it will not see the end."""
        if request.streams:
            client.abort()  # it has gone, its time is up, or it reads nothing
        elif not gone:
            more = "" if request.reads else "; it goes on in the background"
            problem = (
                f"{request.command}: not finished in {request.timeout_s:g} s{more}"
            )
            await client.send(refusal(ControlError(problem)))
        await client.close()

    async def _pump(self, client: "_Client", request: Request) -> None:
        """Answers to the client; a command that changes something needs no reader."""
        finished = False
        if request.streams:
            client.patience_s = None
        try:
            answers = self._commands.answer(request.command, request.options)
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    finished = "ok" in answer
                    flush = finished or request.streams
                    await client.send(answer, flush=flush)
                    if client.closed and request.reads:
                        return
            if not finished:
                await client.send({"ok": True})
        except SyncdError as error:
            known = isinstance(error, ControlError)
            status = error.status if isinstance(error, ControlError) else 1
            if not known:
                _log.error("%s: %s", request.command, error)
            await client.send(refusal(ControlError(str(error), status)))
        except Exception as error:  # noqa: BLE001 - the edge of a task
            _log.exception("%s: unexpected error", request.command)
            problem = f"{request.command}: unexpected error, see the daemon's log"
            await client.send(refusal(ControlError(f"{problem} ({error!r})")))
            if self._failed is not None:
                self._failed(error)


class _Client:
    """One connection: a request, then answers in slices with backpressure."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read_s: float
    ) -> None:
        self.closed = False
        self.patience_s: float | None = read_s  # for the reader of an answer
        self._reader = reader
        self._writer = writer
        self._read_s = read_s
        self._slice: list[bytes] = []
        self._slice_bytes = 0

    async def request(self) -> Request:
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            problem = f"the request is longer than {REQUEST_BYTES} bytes"
            raise ControlError(problem, status=2) from error
        except TimeoutError as error:
            raise ControlError(
                f"no request within {REQUEST_S:g} s", status=2
            ) from error
        except OSError as error:
            raise ControlError(f"the request cannot be read: {error}") from error
        return read_request(line)

    async def gone(self, interval_s: float) -> None:
        """Return when the client has closed; one that only ended its writing stays."""
        with contextlib.suppress(OSError):
            while await self._reader.read(4096):
                pass  # it has no more to say
        poll = select.poll()
        with contextlib.suppress(OSError, ValueError):
            poll.register(self._writer.get_extra_info("socket").fileno(), 0)
            # POLLHUP, POLLERR, POLLNVAL: asyncio has no event for them.
            while not poll.poll(0):  # noqa: ASYNC110
                await asyncio.sleep(interval_s)

    async def send(self, answer: Answer, *, flush: bool = True) -> None:
        """Write in slices; a client that does not read in time is cut off."""
        if self.closed:
            return
        text = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        self._slice.append(text)
        self._slice_bytes += len(text)
        if not flush and self._slice_bytes < _SLICE_BYTES:
            return
        data, self._slice, self._slice_bytes = b"".join(self._slice), [], 0
        try:
            self._writer.write(data)
            async with asyncio.timeout(self.patience_s):
                await self._writer.drain()
        except TimeoutError:
            self.closed = True
            self._writer.transport.abort()
        except OSError:
            self.closed = True
        else:
            await asyncio.sleep(0)

    def abort(self) -> None:
        """It is not worth waiting until it has read what was written."""
        self.closed = True
        self._writer.transport.abort()

    async def close(self) -> None:
        self.closed = True
        self._writer.close()
        try:
            async with asyncio.timeout(self._read_s):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            pass  # lost already


def _check_peer(writer: asyncio.StreamWriter) -> None:
    """Only root and the daemon's own user command it, whatever became of the mode."""
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("=iII", credentials)  # struct ucred: pid, uid, gid
    if user not in (0, os.geteuid()):
        problem = f"user {user} may not command this daemon: ask as root or its user"
        raise ControlError(problem, status=4)


def _listen(path: str) -> socket.socket:
    directory = os.path.dirname(path)
    try:
        if directory:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody may connect between bind() and a chmod().
        mask = os.umask(0o177)
        try:
            listener.bind(path)
            listener.listen(CLIENTS)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
    except OSError as error:
        status = 4 if isinstance(error, PermissionError) else 1
        problem = f"control.socket {path}: {error.strerror or error}"
        raise ControlError(problem, status) from error
    listener.settimeout(0)
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ControlError(f"control.socket {path}: is there and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except (TimeoutError, BlockingIOError):
        pass  # a full backlog: somebody is there
    problem = "another daemon answers there, syncd stop ends it"
    raise ControlError(f"control.socket {path}: {problem}")
