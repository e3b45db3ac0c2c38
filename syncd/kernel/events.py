"""The subscription to what the kernel's tables do.

In: ctnetlink event messages, one per `recv`. Out: batches of whole messages, as bytes,
and the number of those that were lost. The rule: nothing is decoded here.

A full receive queue loses events. The socket runs with NETLINK_NO_ENOBUFS: by default
the kernel answers one ENOBUFS and then queues *nothing* until the queue was read empty,
so that one overrun costs a whole queue more; without it the queue refills as room
appears. Losses are counted by the kernel either way (SO_MEMINFO): `check_losses` asks.

One `recv` per event is the cheapest there is: with 50 000 events queued (best of five
runs, CPU of kernel and Python together) `recv` costs 0.76 us per event, recvmmsg by way
of ctypes 0.77 to 0.91 us, whatever the batch and the slicing: most of the time is the
kernel's work on each message, and the slices cost what the calls save.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence
from itertools import repeat

from syncd.errors import KernelError

# linux/netlink.h, linux/netfilter/nfnetlink.h and asm-generic/socket.h; Python has
# no names for them.
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_BROADCAST_ERROR = 4
_NETLINK_NO_ENOBUFS = 5
GROUPS = (1, 2, 3, 4, 6)  # NEW, UPDATE, DESTROY, EXP_NEW, EXP_DESTROY
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")  # [0] bytes queued, [8] messages dropped

# The largest message seen has 380 bytes, nothing gets near this and is cut; from 0.5 to
# 64 KiB the size makes no difference in time.
_MESSAGE_BYTES = 32768
_BUFFER_LIMIT = (1 << 30) - 1  # the kernel doubles it and keeps it in an int
_PORTID_LIMIT = 250  # a jump of classic BPF is 8 bits wide


class EventSocket:
    """A subscription to flow and expectation events of one network namespace."""

    def __init__(
        self, receive_buffer: int, reliable: bool, groups: Sequence[int] = GROUPS
    ) -> None:
        self.events = 0
        self.overruns = 0
        self.lost = 0
        self._refused = 0
        self._dropped = 0
        self._socket = _open()
        try:
            self.receive_buffer = _set_buffer(self._socket, receive_buffer)
            self._configure(reliable, groups)
        except OSError as error:
            self._socket.close()
            raise _refusal(error) from error
        self._recv = self._socket.recv

    @property
    def portid(self) -> int:
        """The netlink address of this socket."""
        return int(self._socket.getsockname()[0])

    @property
    def queued_bytes(self) -> int:
        """What waits in the kernel, in the kernel's own accounting (1280 per event)."""
        return self._meminfo()[0]

    def fileno(self) -> int:
        return self._socket.fileno()

    def ignore_portids(self, portids: Sequence[int]) -> None:
        """Let the kernel drop events that these sockets of ours caused."""
        if 0 in portids or len(portids) > _PORTID_LIMIT:
            raise ValueError(f"port ids: 1 to {_PORTID_LIMIT} of them, none of them 0")
        try:
            if portids:
                _attach(self._socket, _echo_filter(portids))
            else:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if portids or error.errno != errno.ENOENT:
                raise _refusal(error) from error

    def drain(self, limit: int) -> list[bytes]:
        """Up to `limit` messages that wait now; fewer than that: the queue is empty."""
        batch: list[bytes] = []
        append = batch.append
        recv = self._recv
        try:
            for _ in repeat(None, limit):
                append(recv(_MESSAGE_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise _refusal(error) from error
            self._refused += 1  # no memory for a message; what is queued stays
        self.events += len(batch)
        return batch

    def check_losses(self) -> int:
        """How many messages were lost since the last call; one cheap system call."""
        dropped = self._meminfo()[8]
        lost = ((dropped - self._dropped) & 0xFFFFFFFF) + self._refused
        self._dropped = dropped
        self._refused = 0
        if lost:
            self.lost += lost
            self.overruns += 1
        return lost

    def close(self) -> None:
        self._socket.close()

    def _configure(self, reliable: bool, groups: Sequence[int]) -> None:
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        if reliable:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_BROADCAST_ERROR, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def _meminfo(self) -> tuple[int, ...]:
        answer = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return _MEMINFO.unpack(answer)


def _open() -> socket.socket:
    try:
        return socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK,
            _NETLINK_NETFILTER,
        )
    except OSError as error:
        raise _refusal(error) from error


def _set_buffer(sock: socket.socket, size: int) -> int:
    """Set the receive buffer, past the machine's limit if we may; the size we got."""
    size = min(size, _BUFFER_LIMIT)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:  # not in the first user namespace: net.core.rmem_max rules
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def _refusal(error: OSError) -> KernelError:
    """One line that says what to do."""
    if error.errno in (errno.EPERM, errno.EACCES):
        reason = "the capability CAP_NET_ADMIN is needed; run as root"
    elif error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT):
        reason = "this kernel has no ctnetlink; load the module nf_conntrack_netlink"
    else:
        reason = os.strerror(error.errno or 0)
    return KernelError(
        f"kernel events: {reason}", errno=error.errno or 0, request="subscribe"
    )


def _echo_filter(portids: Sequence[int]) -> bytes:
    """Classic BPF: drop when nlmsg_pid (offset 12) is one of ours, else pass."""
    # Loads are big endian while the header has host order, hence the repacking.
    code = [struct.pack("=HBBI", 0x20, 0, 0, 12)]  # ld [12]
    count = len(portids)
    for position, portid in enumerate(portids):
        (swapped,) = struct.unpack(">I", struct.pack("=I", portid))
        code.append(struct.pack("=HBBI", 0x15, count - position, 0, swapped))  # jeq
    code.append(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF))  # ret all
    code.append(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret none
    return b"".join(code)


def _attach(sock: socket.socket, code: bytes) -> None:
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
