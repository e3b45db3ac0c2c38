"""Somebody else changes every flow: gives all in this namespace's table one mark.

A process of its own, started inside the namespace; in comes the mark. (The `conntrack`
tool cannot do it: its update repeats attributes that the kernel refuses to change.)
"""

import socket
import struct
import sys
from collections.abc import Iterator

_NETFILTER, _NEW, _GET, _DONE = 12, 0x0100, 0x0101, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_MARK = 8
_HEADER = struct.Struct("=IHHII")
_TUPLE_AT = 20  # CTA_TUPLE_ORIG comes first, after nlmsghdr and nfgenmsg
_BATCH = 100


def _tuples(kernel: socket.socket) -> Iterator[bytes]:
    """nfgenmsg and original tuple of every IPv4 flow."""
    kernel.send(_HEADER.pack(20, _GET, _REQUEST | _DUMP, 0, 0) + bytes((2, 0, 0, 0)))
    while True:
        data = kernel.recv(1 << 16)
        at = 0
        while at < len(data):
            size, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            length = int.from_bytes(data[at + 20 : at + 22], sys.byteorder)
            yield data[at + 16 : at + _TUPLE_AT + length]
            at += size


def main() -> None:
    """Read all, then change all; a refusal ends it."""
    mark = struct.pack("=HH", 8, _MARK) + struct.pack(">I", int(sys.argv[1]))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
        kernel.bind((0, 0))
        flows = list(_tuples(kernel))
        for first in range(0, len(flows), _BATCH):
            batch = [
                _HEADER.pack(16 + len(flow) + 8, _NEW, _REQUEST | _ACK, 0, 0)
                + flow
                + mark
                for flow in flows[first : first + _BATCH]
            ]
            kernel.send(b"".join(batch))
            for _ in batch:
                code = struct.unpack_from("=i", kernel.recv(1 << 16), 16)[0]
                if code:
                    raise OSError(-code, "a flow could not be marked")


if __name__ == "__main__":
    main()
