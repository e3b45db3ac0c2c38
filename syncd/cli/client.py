"""The asking side of the control socket: a command goes out, answers come in.

Plain blocking calls, answers are handed out one by one as they arrive. ControlError
carries the exit status: 3 no daemon answers, 4 not permitted, 1 anything else.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

from syncd.errors import ControlError
from syncd.fingerprint import fingerprint, plain_socket

Answer = dict[str, object]

QUICK_S: Final = 10.0  # a daemon that is alive tells its status sooner
_KNOWN_S: Final = 1.0
_STOP_S: Final = 30.0
_GRACE_S: Final = 2.0  # the daemon itself says that the time is up, if it can
_LINE_BYTES: Final = 64 * 1024 * 1024
_STREAM_BYTES: Final = 256 * 1024


def ask(
    path: str, command: str, options: Mapping[str, object], quick: bool = False
) -> Iterator[Answer]:
    """Yield every answer; the last one has "ok".

    `options` with a "timeout" bound the wait, without one only a `quick` command has
    a bound: it means that nobody is there.
    """
    limit = options.get("timeout")
    patience_s = QUICK_S if quick else None
    if isinstance(limit, int | float):
        patience_s = limit + _GRACE_S
    deadline_s = None if patience_s is None else time.monotonic() + patience_s
    with _connect(path, patience_s) as connection:
        try:
            _send(connection, command, options)
        except TimeoutError as error:
            raise _late(path, patience_s, quick=quick) from error
        with connection.makefile("rb") as answers:
            while True:
                if deadline_s is not None:
                    connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
                try:
                    text = answers.readline(_LINE_BYTES)
                except TimeoutError as error:
                    raise _late(path, patience_s, quick=quick) from error
                except OSError as error:
                    text = b""
                    if not isinstance(error, ConnectionError):
                        raise
                answer = _read(path, text)
                yield answer
                if "ok" in answer:
                    return


class Stream:
    """Answers that come until somebody has had enough; it is for a poll to wait."""

    def __init__(self, path: str, command: str, options: Mapping[str, object]) -> None:
        self._path = path
        self._rest = b""
        self._connection = _connect(path, QUICK_S)
        _send(self._connection, command, options)
        self._connection.settimeout(0)

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._connection.fileno()

    def take(self) -> list[Answer]:
        """The answers that are there now; the last one of all has "ok"."""
        try:
            data = self._connection.recv(_STREAM_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            _read(self._path, b"")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_read(self._path, line + b"\n") for line in lines]

    def close(self) -> None:
        """Go away."""
        self._connection.close()


def ask_once(
    path: str, command: str, options: Mapping[str, object], quick: bool = False
) -> Answer:
    """The last answer."""
    *_, answer = ask(path, command, options, quick)
    return answer


def known_socket(config: str) -> str | None:
    """The socket of the daemon that runs with just this configuration file, or None."""
    try:
        with open(config, "rb") as file:
            data = file.read()
        path = plain_socket(data)
        options = {"fingerprint": fingerprint(data), "timeout": _KNOWN_S}
        if path is not None and ask_once(path, "config", options).get("ok") is True:
            return path
    except (OSError, ValueError, ControlError):
        pass  # a whole reading tells what is wrong
    return None


def serving(config: str, default: str) -> str | None:
    """The socket of the daemon that began with this file, whatever is in it now."""
    data = b""
    try:
        with contextlib.suppress(OSError, ValueError), open(config, "rb") as file:
            data = file.read()
        path = plain_socket(data) or default
        options = {"fingerprint": fingerprint(data), "timeout": _KNOWN_S}
        answer = ask_once(path, "config", options)
    except ControlError:
        return None
    return path if answer.get("path") == os.path.abspath(config) else None


def is_here(path: str | None) -> bool:
    """Is the daemon in our network namespace? Without a daemon we are it ourselves.

    A path that was asked for has to have a daemon.
    """
    if path is None:
        return True
    with _connect(path, QUICK_S) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = int.from_bytes(credentials[:4], sys.byteorder)
    try:
        return os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net")
    except OSError:
        return False


def await_end(path: str, limit_s: float | None) -> None:
    """Return when no daemon answers any more, so that another one can start."""
    end_s = time.monotonic() + (limit_s or _STOP_S)
    while time.monotonic() < end_s:
        try:
            _connect(path, _GRACE_S).close()
        except ControlError:
            return
        time.sleep(0.02)
    raise ControlError("the daemon said that it stops, but it still answers")


def outcome(answer: Mapping[str, object]) -> int:
    """The exit status that an answer asks for."""
    if answer.get("ok") is True:
        return 0
    status = answer.get("status")
    return status if isinstance(status, int) and 0 < status < 256 else 1


def _connect(path: str, patience_s: float | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(patience_s)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        reason = error.strerror or error
        if isinstance(error, PermissionError):
            raise ControlError(f"{path}: {reason}, ask as root", 4) from error
        problem = f'no daemon answers at {path} ({reason}), is "syncd run" running?'
        raise ControlError(problem, 3) from error
    return connection


def _send(
    connection: socket.socket, command: str, options: Mapping[str, object]
) -> None:
    request = {name: value for name, value in options.items() if value is not None}
    line = json.dumps({"command": command, **request}).encode() + b"\n"
    # What is refused before it is read: the answer says why.
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(line)


def _late(path: str, patience_s: float | None, *, quick: bool) -> ControlError:
    problem = f"no answer from the daemon at {path} within {patience_s:g} s"
    return ControlError(problem, 3 if quick else 1)


def _read(path: str, line: bytes) -> Answer:
    if not line.endswith(b"\n"):
        problem = f"the daemon at {path} closed the connection before it was done"
        raise ControlError(problem, 3)
    try:
        answer: object = json.loads(line)
    except ValueError as error:
        answer = error
    if not isinstance(answer, dict):
        raise ControlError(f"what answers at {path} is not syncd")
    return answer
