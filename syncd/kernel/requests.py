"""Requests to the kernel's tables: commit, delete, look up, dump.

In: whole ctnetlink messages, numbered by their senders. Out: what was refused, and the
replies. The rule: no message asks for an acknowledgement. `send` returns when the
kernel has worked through the batch, and every refusal is already in the receive queue
by then: silence is success. Buffers are sized for that, batches are cut to fit.

`carry_out` drives a plan (see `Plan`) with two batches on their way: while a worker
thread is inside `send`, where the kernel works and the interpreter lock is free, the
event loop builds the next batch and serves everybody else.
"""

import asyncio
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol, TypeVar

from syncd.errors import KernelError

# linux/netlink.h and asm-generic/socket.h; Python has no names for them.
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_ACK_TLVS = 0x1, 0x300, 0x200
_NLMSGERR_ATTR_MSG = 1

Dumped = Literal["flows", "expectations"]

_CT_GET, _CT_GET_STATS, _EXP_GET = 0x101, 0x105, 0x201
_GET = 1  # the low byte of both
_DUMPS: dict[Dumped, int] = {"flows": _CT_GET, "expectations": _EXP_GET}
_STATS_ENTRIES, _STATS_LIMIT = 1, 2  # CTA_STATS_GLOBAL_*
_NLA_TYPE_MASK = 0x3FFF
_CAPPED_ERROR_BYTES = 36  # nlmsghdr, errno, nlmsghdr of the request
_ON_THEIR_WAY = 2

_BUFFER_BYTES = 4 << 20  # the kernel doubles it
_SEND_BUFFER_BYTES = 2 << 20
_DUMP_BUFFER_BYTES = 256 << 10
_DUMP_RECV_BYTES = 32 << 10  # the kernel never fills more
_REPLY_BYTES = 8192  # the largest message seen has 380
# What an answer is charged for in the receive queue, with room to spare: a refusal
# (832 seen), the reply to a GET (the kernel allocates a page for it).
_REFUSAL_CHARGE, _REPLY_CHARGE = 1664, 8704
_SEND_HEADROOM = 64

_HEADER = struct.Struct("=IHHII")
_LENGTH_AND_TYPE = struct.Struct("=IH")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")


class Refusal(NamedTuple):
    """The kernel's no to one message of a batch."""

    index: int  # type: ignore[assignment] # nobody asks a refusal for .index()
    errno: int
    text: str


class Answers(NamedTuple):
    """What came back: refusals, and replies with the index of their request."""

    refusals: list[Refusal]
    replies: list[tuple[int, bytes]]


class Part(NamedTuple):
    """Messages that go to the kernel in one call: the first one's index, and all."""

    first: int
    messages: Sequence[bytes]
    data: bytes


class Batch(Protocol):
    """Messages to send at once; their sequence numbers differ."""

    @property
    def messages(self) -> Sequence[bytes]: ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Plan(Protocol[AnyBatch]):
    """Knows what to send next, given what was answered so far.

    `next_batch` is None while only a report can bring more, and when all is done.
    """

    def next_batch(self) -> AnyBatch | None: ...

    def report(
        self,
        batch: AnyBatch,
        refusals: Sequence[Refusal],
        replies: Sequence[tuple[int, bytes]],
    ) -> None: ...


class RequestSocket:
    """A socket for requests, in the network namespace it was made in.

    Its calls may come from several threads; each has the socket for itself meanwhile.
    Making it asks the kernel for the size of its table, and so finds out whether we
    may ask at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dumping = asyncio.Lock()
        self._sequence = 0
        self._dump_cpu_s = 0.0
        self._socket = _open(_BUFFER_BYTES)
        try:
            self._dump_socket = _open(_DUMP_BUFFER_BYTES)
            room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            self._refusals_fit = max(1, room // _REFUSAL_CHARGE)
            self._replies_fit = max(1, room // _REPLY_CHARGE)
            room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            self._bytes_fit = room - _SEND_HEADROOM
            self.table_size()
        except BaseException:
            self.close()
            raise

    @property
    def portid(self) -> int:
        """The netlink address of what changes the tables: events it causes carry it."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()
        if hasattr(self, "_dump_socket"):
            self._dump_socket.close()

    def table_size(self) -> tuple[int, int]:
        """How many flows the kernel tracks in this namespace, and how many it may."""
        self._sequence = self._sequence + 1 & 0x7FFFFFFF
        request = _request(_CT_GET_STATS, _NLM_F_REQUEST, self._sequence, 0)
        refusals, replies = self.exchange([request])
        if refusals or not replies:
            code = refusals[0].errno if refusals else errno.EPROTO
            raise _refusal(code, "table size")
        numbers = dict(_attributes(replies[0][1], 20))
        try:
            return (
                int.from_bytes(numbers[_STATS_ENTRIES], "big"),
                int.from_bytes(numbers[_STATS_LIMIT], "big"),
            )
        except KeyError as error:
            raise _refusal(errno.EPROTO, "table size") from error

    def send(self, batch: Sequence[bytes]) -> list[Refusal]:
        """Send messages; those that are not refused are done."""
        return self.exchange(batch).refusals

    def get(self, requests: Sequence[bytes]) -> list[bytes | None]:
        """The replies to single GETs, None for what is not there."""
        answers = self.exchange(requests)
        for refusal in answers.refusals:
            if refusal.errno != errno.ENOENT:
                raise _refusal(refusal.errno, "get", refusal.text)
        found = dict(answers.replies)
        return [found.get(index) for index in range(len(requests))]

    def exchange(self, batch: Sequence[bytes]) -> Answers:
        """Send messages, and read all that comes back.

        An answer that was lost for want of memory counts as refused with ENOBUFS.
        """
        return self.exchange_parts(self.cut(batch))

    def exchange_parts(self, parts: Sequence[Part]) -> Answers:
        """The same for a batch that was cut before."""
        answers = Answers([], [])
        with self._lock:
            for part in parts:
                self._exchange_part(part, answers)
        return answers

    async def dump(
        self, kind: Dumped, family: int = 0, timeout_s: float = 5.0
    ) -> AsyncGenerator[list[bytes], None]:
        """The messages of a whole table, one list for each read from the kernel.

        The event loop gets its turn after each. `timeout_s` bounds every read, so a
        dump never hangs. One that is given up half-way is forgotten by the kernel.
        """
        async with self._dumping:
            complete = False
            try:
                self._sequence = sequence = self._sequence + 1 & 0x7FFFFFFF
                flags = _NLM_F_REQUEST | _NLM_F_DUMP
                self._dump_socket.send(_request(_DUMPS[kind], flags, sequence, family))
                while not complete:
                    messages, complete = split(await self._receive(kind, timeout_s))
                    yield messages
                    await asyncio.sleep(0)
            except OSError as error:
                raise _refusal(error.errno or 0, f"dump of {kind}") from error
            finally:
                if not complete:
                    self._dump_socket.close()
                    self._dump_socket = _open(_DUMP_BUFFER_BYTES)

    def take_dump_cpu_s(self) -> float:
        """What dumps have cost in the kernel, since the last call."""
        spent_s, self._dump_cpu_s = self._dump_cpu_s, 0.0
        return spent_s

    def _receive_now(self) -> bytes:
        began = time.thread_time()
        data = self._dump_socket.recv(_DUMP_RECV_BYTES)
        self._dump_cpu_s += time.thread_time() - began
        return data

    async def _receive(self, kind: Dumped, timeout_s: float) -> bytes:
        """One part of a dump; the kernel writes it while somebody waits for it.

        In a thread: the hash table is shared by all network namespaces, and the kernel
        walks through millions of entries of others, if it must, until a part is full.
        """
        try:
            return await asyncio.to_thread(self._receive_now)
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            reading = loop.sock_recv(self._dump_socket, _DUMP_RECV_BYTES)
        try:
            return await asyncio.wait_for(reading, timeout_s)
        except TimeoutError as error:
            raise _refusal(errno.ETIMEDOUT, f"dump of {kind}") from error

    def cut(self, batch: Sequence[bytes]) -> list[Part]:
        """Cut a batch so that the kernel takes it and its answers find room."""
        if not batch:
            return []
        asking = batch[0][4] == _GET
        count = self._replies_fit if asking else self._refusals_fit
        data = b"".join(batch)
        if len(batch) <= count and len(data) <= self._bytes_fit:
            return [Part(0, batch, data)]
        parts = []
        first = size = 0
        for index, message in enumerate(batch):
            if index - first == count or size + len(message) > self._bytes_fit:
                parts.append(Part(first, batch[first:index], b""))
                first, size = index, 0
            size += len(message)
        parts.append(Part(first, batch[first:], b""))
        return [part._replace(data=b"".join(part.messages)) for part in parts]

    def _exchange_part(self, part: Part, answers: Answers) -> None:
        first, messages, data = part
        try:
            self._socket.send(data)
        except OSError as error:
            raise _refusal(error.errno or 0, "send") from error
        index_of: dict[int, int] = {}
        lost = False
        while True:
            try:
                answer = self._socket.recv(_REPLY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _refusal(error.errno or 0, "receive") from error
                lost = True
                continue
            if not index_of:
                index_of = {
                    int.from_bytes(message[8:12], sys.byteorder): first + place
                    for place, message in enumerate(messages)
                }
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            index = index_of.get(sequence)
            if index is None:
                continue
            if kind != _NLMSG_ERROR:
                answers.replies.append((index, answer))
                continue
            code = -_ERROR.unpack_from(answer, 16)[0]
            if code:
                answers.refusals.append(Refusal(index, code, _explanation(answer)))
        if lost:
            answered = {refusal.index for refusal in answers.refusals}
            answered.update(index for index, _ in answers.replies)
            for index in range(first, first + len(messages)):
                if index not in answered:
                    answers.refusals.append(Refusal(index, errno.ENOBUFS, ""))


async def carry_out(plan: Plan[AnyBatch], requests: RequestSocket) -> None:
    """Send a plan's batches until it has no more, reporting the answers to it."""
    loop = asyncio.get_running_loop()
    sent: deque[tuple[AnyBatch, asyncio.Future[Answers]]] = deque()
    with ThreadPoolExecutor(1, "requests") as worker:
        while True:
            batch = plan.next_batch()
            if batch is not None:
                # Cut here, where it costs no time of the worker's.
                parts = requests.cut(batch.messages)
                answers = loop.run_in_executor(worker, requests.exchange_parts, parts)
                sent.append((batch, answers))
            if not sent:
                return
            if batch is None or len(sent) == _ON_THEIR_WAY:
                batch, answers = sent.popleft()
                plan.report(batch, *(await answers))


def _open(receive_buffer: int) -> socket.socket:
    try:
        opened = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK,
            _NETLINK_NETFILTER,
        )
    except OSError as error:
        raise _refusal(error.errno or 0, "socket") from error
    try:
        opened.bind((0, 0))
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        for forced, option, size in (
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES),
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer),
        ):
            try:
                opened.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:  # not in the first user namespace
                opened.setsockopt(socket.SOL_SOCKET, option, size)
    except OSError as error:
        opened.close()
        raise _refusal(error.errno or 0, "socket") from error
    return opened


def _request(kind: int, flags: int, sequence: int, family: int) -> bytes:
    """A message without attributes: nlmsghdr and nfgenmsg."""
    return _HEADER.pack(20, kind, flags, sequence, 0) + bytes((family, 0, 0, 0))


def split(data: bytes) -> tuple[list[bytes], bool]:
    """The messages of one read of a dump; was it the last?"""
    messages: list[bytes] = []
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind = _LENGTH_AND_TYPE.unpack_from(data, start)
        if length < _HEADER.size or start + length > len(data):
            raise _refusal(errno.EPROTO, "dump")
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = -int.from_bytes(
                data[start + 16 : start + 20], sys.byteorder, signed=True
            )
            if code > 0:
                raise _refusal(code, "dump", _explanation(data[start:]))
            return messages, True
        messages.append(data[start : start + length])
        start += length + 3 & ~3
    return messages, False


def _attributes(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of the attributes of a message from the kernel."""
    while start + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield kind & _NLA_TYPE_MASK, data[start + 4 : start + length]
        start += length + 3 & ~3


def _explanation(answer: bytes) -> str:
    """The text that the kernel gave with a refusal, often none."""
    flags = int.from_bytes(answer[6:8], sys.byteorder)
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    text = dict(_attributes(answer, _CAPPED_ERROR_BYTES)).get(_NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode("ascii", "replace")


def _refusal(code: int, request: str, text: str = "") -> KernelError:
    """One line that says what to do."""
    if code in (errno.EPERM, errno.EACCES):
        reason = "the capability CAP_NET_ADMIN is needed; run as root"
    elif code in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT) or (
        code == errno.EINVAL and request == "table size"
    ):
        reason = "this kernel has no ctnetlink; load the module nf_conntrack_netlink"
    else:
        reason = text or os.strerror(code)
    return KernelError(f"kernel {request}: {reason}", errno=code, request=request)
