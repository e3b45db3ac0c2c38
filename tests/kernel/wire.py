"""Packets by hand: addresses and numbers come in, Ethernet frames go out.

Checksums above IP are left out: the firewall under test does not look at them
(net.netfilter.nf_conntrack_checksum=0).
"""

import socket
import struct
from functools import lru_cache

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
OPTIONS = bytes.fromhex("020405b40402010303070101")  # MSS, SACK, window scale 7
FAR_MAC = "02:00:00:00:00:99"  # of nobody: what the firewall forwards ends there
_FAR = bytes.fromhex(FAR_MAC.replace(":", ""))


@lru_cache(1 << 16)
def _address(text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text)


def packet(
    mac: bytes,
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    traffic_class: int = 0,
) -> bytes:
    """One frame to the firewall's interface `mac`, IPv4 or IPv6 by the addresses."""
    ends = _address(source) + _address(destination)
    if len(ends) == 32:
        first = 6 << 28 | traffic_class << 20
        head = struct.pack(">IHBB", first, len(payload), protocol, 63)
        return mac + _FAR + b"\x86\xdd" + head + ends + payload
    size = 20 + len(payload)
    head = struct.pack(">BBHIBB", 0x45, traffic_class, size, 0x4000, 63, protocol)
    total = sum(struct.unpack(">9H", head + ends))
    total = (total & 0xFFFF) + (total >> 16)
    checksum: int = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return (
        mac + _FAR + b"\x08\x00" + head + checksum.to_bytes(2, "big") + ends + payload
    )


def tcp(
    sport: int,
    dport: int,
    flags: int,
    sequence: int,
    acknowledged: int = 0,
    data: bytes = b"",
    *,
    options: bytes | bool = False,
) -> bytes:
    """`options` True are those that most hosts send; or they are given, padded."""
    extra = OPTIONS if options is True else options or b""
    head = struct.pack(
        ">HHIIBBHHH",
        *(sport, dport, sequence, acknowledged),
        *((20 + len(extra)) << 2, flags, 65535, 0, 0),
    )
    return head + extra + data


def udp(sport: int, dport: int, *, checksum: int = 0) -> bytes:
    """UDP-Lite has the same form, and wants a checksum."""
    return struct.pack(">HHHH", sport, dport, 16, checksum) + b"12345678"


def echo(kind: int, ident: int) -> bytes:
    """ICMP and ICMPv6 have the same form."""
    return struct.pack(">BBHHH", kind, 0, 0, ident, 1) + bytes(8)


def sctp(sport: int, dport: int, tag: int, chunk: int, value: bytes = b"") -> bytes:
    head = struct.pack(">HHII", sport, dport, tag, 0)
    return head + struct.pack(">BBH", chunk, 0, 4 + len(value)) + value


def sctp_begin(tag: int) -> bytes:
    """The value of an INIT or INIT ACK chunk."""
    return struct.pack(">IIHHI", tag, 65535, 10, 10, 1)


def gre() -> bytes:
    """Version 0, an IPv4 packet inside."""
    return struct.pack(">HH", 0, 0x0800) + bytes(20)


def gre_with_key(call: int) -> bytes:
    """Version 1 with a call id, as PPTP sends it."""
    return struct.pack(">HHHHI", 0x3001, 0x880B, 4, call, 1) + bytes(4)
