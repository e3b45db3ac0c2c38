"""Where records go: a file, or a collector; each has a thread that may wait.

In: lines, or datagrams, from the event loop. Out: bytes in a file, datagrams on the
wire, and counters. The rule: the event loop never waits; what a slow disk or a missing
network leaves behind waits in a bounded buffer, beyond it the newest is dropped and
counted. A failure is one line in the log, and so is its end.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from syncd.errors import SyncdError

_LOG = logging.getLogger("syncd.accounting")
_LINES_AT_ONCE = 32  # of a chunk, which is kept or dropped as a whole
_WRITE_BYTES = 1 << 18  # of one system call, about
_GATHER_S = 0.02  # in which more comes together
_RETRY_S = 1.0  # after a failure
_STOP_S = 5.0  # for what waits at the end
_BURST = 8  # datagrams at once, then a breath, so that a collector keeps up
_BREATH_S = 0.001
_SAY_AGAIN_S = 300.0
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}  # of IP and UDP
_MTU, _LEAST_BYTES = 1500, 512


class Sink(ABC):
    """Takes chunks of records and gets rid of them in a thread of its own."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self.name = name
        self.written = self.dropped = self.failures = 0  # records, records, errors
        self.failing = ""  # why nothing goes out now
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._dropped_before = 0  # when the failure began
        self._changed = threading.Condition()
        self._stopping = False
        self._silent_until = 0.0  # what was said lately is not said again
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """Records that have not gone out yet."""
        with self._changed:
            return sum(count for _, count in self._waiting)

    def start(self) -> None:
        self._thread.start()

    def put(self, chunks: Sequence[tuple[bytes, int]]) -> None:
        """Chunks, each with the number of its records; returns at once."""
        if not chunks:
            return
        before = self.dropped
        with self._changed:
            for data, count in chunks:
                if self._waiting_bytes + len(data) > self._limit_bytes:
                    self.dropped += count
                    continue
                self._waiting.append((data, count))
                self._waiting_bytes += len(data)
            self._changed.notify()
        now = time.monotonic()
        if self.dropped > before and not self.failing and now >= self._silent_until:
            self._silent_until = now + _SAY_AGAIN_S
            _LOG.warning(
                "accounting: %s: more records than go out, some are dropped; give "
                "[accounting] buffer more room",
                self.name,
            )

    def close(self) -> None:
        """Get rid of what waits, as far as that works within seconds."""
        if not self._thread.is_alive():
            return
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(_STOP_S)
        if left := self.waiting:
            self.dropped += left
            _LOG.error("accounting: %s: %d records were not written", self.name, left)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._due())
                if self._stopping and not self._waiting:
                    break
            try:
                self._work()
            except OSError as error:
                self._failed(error)
                with self._changed:
                    if self._stopping:
                        break
                time.sleep(_RETRY_S)
                continue
            if self.failing:
                self._recovered()
            if not self._stopping:
                time.sleep(_GATHER_S)
        self._end()

    def _due(self) -> bool:
        """Is there anything to do?"""
        return bool(self._waiting)

    def _done(self, chunks: int) -> None:
        """So many of the chunks that waited are out."""
        with self._changed:
            for _ in range(chunks):
                data, count = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                self.written += count

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        reason = os.strerror(error.errno or 0)
        if reason != self.failing:
            if not self.failing:
                self._dropped_before = self.dropped
            self.failing = reason
            _LOG.error(
                "accounting: %s: %s; records wait in a buffer of %d bytes, more are "
                "dropped",
                *(self.name, reason, self._limit_bytes),
            )

    def _recovered(self) -> None:
        dropped = self.dropped - self._dropped_before
        self.failing = ""
        text = "accounting: %s: written again, %d records were dropped"
        _LOG.info(text, self.name, dropped)

    @abstractmethod
    def _work(self) -> None:
        """Get rid of what waits now; an OSError leaves it waiting."""

    @abstractmethod
    def _end(self) -> None:
        """Nothing more comes."""


class FileSink(Sink):
    """Lines at the end of a file."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        super().__init__(path, limit_bytes)
        self._reopening = False
        self._offset = 0  # bytes of the first chunk that are written
        try:
            self._file = _opened(path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise SyncdError(
                f"accounting: {path}: {reason}; the daemon must be able to write there"
            ) from error

    def put_lines(self, lines: Sequence[str]) -> None:
        """Lines without their ends."""
        chunks = []
        for at in range(0, len(lines), _LINES_AT_ONCE):
            part = lines[at : at + _LINES_AT_ONCE]
            chunks.append((("\n".join(part) + "\n").encode(), len(part)))
        self.put(chunks)

    def reopen(self) -> None:
        """From the next line on, write into the file that the path names then."""
        with self._changed:
            self._reopening = True
            self._changed.notify()

    def _due(self) -> bool:
        return bool(self._waiting or self._reopening)

    def _work(self) -> None:
        if self._reopening:
            self._change_file()
        while self._waiting:
            chunks: list[bytes] = []
            size = -self._offset
            with self._changed:
                for data, _ in self._waiting:
                    chunks.append(data)
                    size += len(data)
                    if size >= _WRITE_BYTES:
                        break
            joined = b"".join(chunks)[self._offset :]
            try:
                self._offset += os.write(self._file, joined)
            except OSError:
                self._untear()
                raise
            done = 0
            for data in chunks:
                if self._offset < len(data):
                    break
                self._offset -= len(data)
                done += 1
            self._done(done)

    def _change_file(self) -> None:
        """A line that is torn between two files goes into the new one as a whole."""
        self._reopening = False  # before it is opened: it may be moved again after
        try:
            new = _opened(self.name)
        except OSError:
            self._reopening = True
            raise
        self._untear()
        os.close(self._file)
        self._file = new

    def _untear(self) -> None:
        """Take the beginning of a line back, for it does not go on."""
        if not self._offset:
            return
        data = self._waiting[0][0]
        begin = data.rfind(b"\n", 0, self._offset) + 1
        with contextlib.suppress(OSError):  # what went into a pipe is gone
            size = os.fstat(self._file).st_size
            os.ftruncate(self._file, size - (self._offset - begin))
            self._offset = begin

    def _end(self) -> None:
        os.close(self._file)


class CollectorSink(Sink):
    """Datagrams to a collector."""

    def __init__(self, address: str, port: int, limit_bytes: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        shown = f"[{address}]" if ":" in address else address
        super().__init__(f"ipfix {shown}:{port}", limit_bytes)
        self.refused = False  # by a collector that was not there; it knows no template
        self._family = family
        self._target = (address, port)
        self._socket: socket.socket | None = None
        self.message_bytes = _MTU - _HEADERS[family]

    def _work(self) -> None:
        if self._socket is None:
            self._socket = self._connected()
        sent = 0
        while self._waiting:
            data, count = self._waiting[0]
            try:
                self._send(self._socket, data)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._socket.close()
                    self._socket = None
                    raise
                self._look_at_mtu(self._socket)
                with self._changed:
                    self.dropped += count
                    self.written -= count
            self._done(1)
            sent += 1
            if sent % _BURST == 0:
                time.sleep(_BREATH_S)

    def _send(self, connected: socket.socket, data: bytes) -> None:
        """One datagram; a refusal is about an earlier one, which is lost."""
        try:
            connected.send(data)
        except ConnectionRefusedError:
            now = time.monotonic()
            if now >= self._silent_until:
                self._silent_until = now + _SAY_AGAIN_S
                _LOG.warning("%s: nobody listens there, records are lost", self.name)
            self.refused = True
            self.failures += 1
            connected.send(data)

    def _connected(self) -> socket.socket:
        connected = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            connected.connect(self._target)
            self._look_at_mtu(connected)
        except OSError:
            connected.close()
            raise
        return connected

    def _look_at_mtu(self, connected: socket.socket) -> None:
        if self._family == socket.AF_INET6:
            mtu = connected.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        else:
            mtu = connected.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        room = min(mtu, _MTU) - _HEADERS[self._family]
        self.message_bytes = max(room, _LEAST_BYTES)

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _opened(path: str) -> int:
    # Not to wait for the reader of a pipe; it makes no difference to files.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(path, flags, 0o640)
