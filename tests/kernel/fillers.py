"""Entries that fill a kernel's table: nf_conntrack_max belongs to the whole machine.

In: a namespace, how much room is to be left. Out: so many assured UDP flows from
127.0.0.0/8 to 127.0.0.2. The rule: the limit is never changed, other tests live by it.
"""

import socket
import struct
from collections.abc import Iterator
from itertools import islice

from tests.lab import inside, sysctl

# What fills the table is of no interest to the daemons.
IGNORED = '[filter]\naddresses = { ignore = ["127.0.0.0/8"] }\n'
_BATCH = 400
_CREATE, _DELETE = (0x100, 0x601), (0x102, 0x1)  # type and flags of the request


def fill(namespace: str, room: int, share: float = 1.0) -> int:
    """Leave room for so many below this share of the limit; the limit."""
    limit = int(sysctl(namespace, "net.netfilter.nf_conntrack_max"))
    count = int(sysctl(namespace, "net.netfilter.nf_conntrack_count"))
    _send(namespace, _requests(int(limit * share) - count - room, *_CREATE))
    return limit


def drain(namespace: str, count: int) -> None:
    """Delete so many of them."""
    _send(namespace, _requests(count, *_DELETE))


def is_filler(message: bytes) -> bool:
    """Is a dumped message one of them?"""
    return message[32:34] == b"\x7f\x01"


def _send(namespace: str, messages: Iterator[bytes]) -> None:
    with inside(namespace):
        asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    with asking:
        asking.bind((0, 0))
        while batch := b"".join(islice(messages, _BATCH)):
            asking.send(batch)


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def _request(number: int, kind: int, flags: int) -> bytes:
    """What creates an assured UDP flow, or deletes it."""
    here, there = struct.pack(">I", 0x7F010000 + (number >> 8)), b"\x7f\x00\x00\x02"
    ports = (1024 + (number & 0xFF), 9)
    body = struct.pack("=BBH", 2, 0, 0)
    for direction, ends, sides in (
        (1, (here, there), ports),
        (2, (there, here), ports[::-1]),
    ):
        address = b"".join(_attribute(i, end) for i, end in enumerate(ends, 1))
        proto = _attribute(1, b"\x11") + b"".join(
            _attribute(i, struct.pack(">H", side)) for i, side in enumerate(sides, 2)
        )
        both = _attribute(0x8001, address) + _attribute(0x8002, proto)
        body += _attribute(0x8000 | direction, both)
    body += _attribute(3, struct.pack(">I", 0xE)) + _attribute(
        7, struct.pack(">I", 900)
    )
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _requests(count: int, kind: int, flags: int) -> Iterator[bytes]:
    """So many requests, all cut from one: address and port stand in two places."""
    model = _request(0, kind, flags)
    address, port = struct.pack(">I", 0x7F010000), struct.pack(">H", 1024)
    parts = []
    for mark in (address, port, address, port):
        part, _, model = model.partition(mark)
        parts.append(part)
    one, two, three, four = parts
    for number in range(count):
        address = struct.pack(">I", 0x7F010000 + (number >> 8))
        port = struct.pack(">H", 1024 + (number & 0xFF))
        yield b"".join((one, address, two, port, three, address, four, port, model))
