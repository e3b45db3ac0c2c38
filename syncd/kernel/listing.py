"""What the kernel answers, read by a program that has nothing else to do.

In: which table, or a request. Out: the messages of the answer, one list for each read.
As `RequestSocket`, but without an event loop, so that a client that asks the kernel
itself starts at once. The rule: every read has a bound, nothing hangs.
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
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
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
    asked = f"list of the kernel's {table}"
    return ask(_DUMPS[table], NLM_F_DUMP, bytes((family, 0, 0, 0)), asked, timeout_s)


def ask(
    kind: int, flags: int, payload: bytes, asked: str, timeout_s: float = 5.0
) -> Iterator[list[bytes]]:
    """The messages that answer one request; `asked` names it in a refusal.

    `payload` is nfgenmsg and attributes. The flags have NLM_F_DUMP or NLM_F_ACK: both
    have the kernel say when its answer is complete.
    """
    length = _HEADER.size + len(payload)
    request = _HEADER.pack(length, kind, _NLM_F_REQUEST | flags, 1, 0) + payload
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER
        ) as opened:
            try:
                opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            except PermissionError:  # not in the first user namespace
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            opened.bind((0, 0))
            opened.settimeout(timeout_s)
            opened.send(request)
            complete = False
            while not complete:
                messages, complete = _split(opened.recv(_RECV_BYTES), asked)
                yield messages
    except TimeoutError as error:
        raise _refusal(errno.ETIMEDOUT, asked) from error
    except OSError as error:
        raise _refusal(error.errno or 0, asked) from error


def _split(data: bytes, asked: str) -> tuple[list[bytes], bool]:
    """The messages of one read; was it the last?"""
    messages: list[bytes] = []
    append = messages.append
    start, size = 0, len(data)
    while start < size:
        if size - start < _HEADER.size:
            raise _refusal(errno.EPROTO, asked)
        length, kind = _LENGTH_AND_TYPE.unpack_from(data, start)
        if length < _HEADER.size or start + length > size:
            raise _refusal(errno.EPROTO, asked)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = -_ERROR.unpack_from(data, start + 16)[0] if length >= 20 else 0
            if code > 0:
                raise _refusal(code, asked)
            return messages, True
        append(data[start : start + length])
        start += length + 3 & ~3
    return messages, False


def _refusal(code: int, asked: str) -> KernelError:
    """One line that says what to do."""
    if code in (errno.EPERM, errno.EACCES):
        reason = "the capability CAP_NET_ADMIN is needed; run as root"
    elif code in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL):
        reason = "this kernel has no ctnetlink; load the module nf_conntrack_netlink"
    else:
        reason = os.strerror(code)
    return KernelError(f"{asked}: {reason}", errno=code, request=asked)
