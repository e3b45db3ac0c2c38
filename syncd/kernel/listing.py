"""A table of the kernel, read by a program that has nothing else to do.

In: which table. Out: its messages, one list for each read. As `RequestSocket.dump`, but
without an event loop, so that a client that lists the kernel's table starts at once.
The rule: every read has a bound, a dump never hangs.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, Literal

from syncd.errors import KernelError

NETLINK_NETFILTER: Final = 12
_SO_RCVBUFFORCE: Final = 33
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_DUMPS: Final = {"flows": 0x101, "expectations": 0x201}
_BUFFER_BYTES: Final = 256 << 10
_RECV_BYTES: Final = 32 << 10  # the kernel never fills more
_HEADER: Final = struct.Struct("=IHHII")
_LENGTH_AND_TYPE: Final = struct.Struct("=IH")
_ERROR: Final = struct.Struct("=i")


def list_table(
    table: Literal["flows", "expectations"], family: int = 0, timeout_s: float = 5.0
) -> Iterator[list[bytes]]:
    """The messages of a whole table; `family` 2 or 10 leaves the other one out."""
    request = _HEADER.pack(20, _DUMPS[table], _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER
        ) as dump:
            try:
                dump.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            except PermissionError:  # not in the first user namespace
                dump.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            dump.bind((0, 0))
            dump.settimeout(timeout_s)
            dump.send(request + bytes((family, 0, 0, 0)))
            complete = False
            while not complete:
                messages, complete = _split(dump.recv(_RECV_BYTES), table)
                yield messages
    except TimeoutError as error:
        raise _refusal(errno.ETIMEDOUT, table) from error
    except OSError as error:
        raise _refusal(error.errno or 0, table) from error


def _split(data: bytes, table: str) -> tuple[list[bytes], bool]:
    """The messages of one read; was it the last?"""
    messages: list[bytes] = []
    append = messages.append
    start, size = 0, len(data)
    while start < size:
        if size - start < _HEADER.size:
            raise _refusal(errno.EPROTO, table)
        length, kind = _LENGTH_AND_TYPE.unpack_from(data, start)
        if length < _HEADER.size or start + length > size:
            raise _refusal(errno.EPROTO, table)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = -_ERROR.unpack_from(data, start + 16)[0] if length >= 20 else 0
            if code > 0:
                raise _refusal(code, table)
            return messages, True
        append(data[start : start + length])
        start += length + 3 & ~3
    return messages, False


def _refusal(code: int, table: str) -> KernelError:
    """One line that says what to do."""
    if code in (errno.EPERM, errno.EACCES):
        reason = "the capability CAP_NET_ADMIN is needed; run as root"
    elif code in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL):
        reason = "this kernel has no ctnetlink; load the module nf_conntrack_netlink"
    else:
        reason = os.strerror(code)
    return KernelError(
        f"list of the kernel's {table}: {reason}", errno=code, request="dump"
    )
