"""Where the load's bytes come from: connection numbers in, blocks of messages out.

A block is many equal messages at a fixed stride; what differs from connection to
connection (addresses, source port, checksum) is written column by column with strided
slices, so that Python pays per block and not per packet. The tuples of neighbouring
numbers look unrelated, as on a real firewall: runs of similar keys would flatter a
daemon that compresses.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

NUMBERS = 1 << 20  # connections alive at a time at most; then tuples come again
BLOCK_MESSAGES = 1024
FRAME_STRIDE = 128
FRAME_HEADER = 32  # struct tpacket2_hdr, aligned; the packet follows

CLIENT_SIDE_MAC = "02:00:00:00:01:01"  # fw1 towards the clients
SERVER_SIDE_MAC = "02:00:00:00:02:01"  # fw1 towards the servers
FAR_MAC = "02:00:00:00:00:99"  # of nobody: what fw1 forwards ends there, unseen
CLIENT_NET, SERVER_NET = bytes.fromhex("0a000000"), bytes.fromhex("ac100000")
PROBE_SERVER = bytes.fromhex("ac100101")
PROBE_PORT, SERVER_PORT = 40000, 443

FIN, SYN, ACK = 0x01, 0x02, 0x10
_OPTIONS_SYN = bytes.fromhex("020405b40402010303070101")  # MSS, SACK, window scale 7
_OPTIONS = bytes.fromhex("0101080a0000000100000001")  # timestamps
_PACKET = struct.Struct(">6s6sHBBHHHBBH4s4sHHIIBBHHH12s")
_SLOT = struct.Struct("=IIIHHIIHH4x")
_SEND_REQUEST = 1
_IP, _TCP = 14, 34
_TUPLE = 20  # of the original tuple in a ctnetlink message
_DELETE, _REQUEST = 0x0102, 0x0001


@dataclass(frozen=True, slots=True)
class Segment:
    """One packet of a connection's life."""

    reply: bool
    flags: int
    sequence: int
    acknowledged: int


LIFE = (  # each is one event: NEW, SYN_RECV, ESTABLISHED, FIN_WAIT, LAST_ACK, TIME_WAIT
    Segment(reply=False, flags=SYN, sequence=1000, acknowledged=0),
    Segment(reply=True, flags=SYN | ACK, sequence=5000, acknowledged=1001),
    Segment(reply=False, flags=ACK, sequence=1001, acknowledged=5001),
    Segment(reply=False, flags=FIN | ACK, sequence=1001, acknowledged=5001),
    Segment(reply=True, flags=FIN | ACK, sequence=5001, acknowledged=1002),
    Segment(reply=False, flags=ACK, sequence=1002, acknowledged=5002),
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What differs: connection number n has byte n of each column."""

    client: tuple[bytes, bytes]  # the last two bytes of 10.0.x.x
    server: bytes  # last byte of 172.16.0.x
    port: tuple[bytes, bytes]
    checksum: tuple[bytes, bytes]  # of the IPv4 header, alike in all packets


def _fold(total: int) -> int:
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _scramble(number: int) -> int:
    """A bijection on 20 bits."""
    number = number * 0x9E375 & 0xFFFFF
    number ^= number >> 9
    return number * 0xC2B2F & 0xFFFFF


def make_endpoints(count: int = NUMBERS) -> Endpoints:
    """Distinct tuples: 16 384 clients, 127 servers, client ports from 32768 up."""
    head = 0x4500 + 52 + 0x4000 + 0x4006 + 0x0A00 + 0xAC10
    third, fourth, server, port_high, port_low, sum_high, sum_low = (
        bytearray(count) for _ in range(7)
    )
    for number in range(count):
        mixed = _scramble(number)
        spread = mixed * 0x85EBCA6B & 0xFFFFFFFF
        third[number] = high = spread >> 22 & 0x3F
        fourth[number] = low = (spread >> 12 & 0x07) << 5 | mixed >> 15
        server[number] = last = 1 + (spread >> 5) % 127
        port_high[number] = 0x80 | mixed >> 8 & 0x7F
        port_low[number] = mixed & 0xFF
        checksum = _fold(head + (high << 8 | low) + last)
        sum_high[number] = checksum >> 8
        sum_low[number] = checksum & 0xFF
    return Endpoints(
        client=(bytes(third), bytes(fourth)),
        server=bytes(server),
        port=(bytes(port_high), bytes(port_low)),
        checksum=(bytes(sum_high), bytes(sum_low)),
    )


class Stencil:
    """One kind of message: a template and the columns that go over it."""

    def __init__(self, template: bytes, columns: dict[int, bytes]) -> None:
        self._template = template
        self._columns = columns

    def blocks(self, first: int, end: int) -> Iterator[tuple[bytearray, int]]:
        """The messages of connections first..end-1, with how many in each block."""
        stride = len(self._template)
        while first < end:
            start = first % NUMBERS
            count = min(end - first, NUMBERS - start, BLOCK_MESSAGES)
            block = bytearray(self._template * count)
            for offset, column in self._columns.items():
                block[offset::stride] = column[start : start + count]
            yield block, count
            first += count


def packet_stencil(ends: Endpoints, segment: Segment) -> Stencil:
    """One segment as a slot of a transmit ring."""
    template = slot(_frame(segment, CLIENT_NET, SERVER_NET, client_port=0, checksum=0))
    ip = FRAME_HEADER + _IP
    client = ip + (16 if segment.reply else 12)
    server = ip + (12 if segment.reply else 16)
    port = FRAME_HEADER + _TCP + (2 if segment.reply else 0)
    columns = {client + 2 + i: column for i, column in enumerate(ends.client)}
    columns[server + 3] = ends.server
    columns.update({port + i: column for i, column in enumerate(ends.port)})
    columns.update({ip + 10 + i: column for i, column in enumerate(ends.checksum)})
    return Stencil(template, columns)


def delete_stencil(ends: Endpoints) -> Stencil:
    """The ctnetlink request that ends a connection."""
    columns = {_TUPLE + 14 + i: column for i, column in enumerate(ends.client)}
    columns[_TUPLE + 23] = ends.server
    columns.update({_TUPLE + 40 + i: column for i, column in enumerate(ends.port)})
    return Stencil(delete_message(CLIENT_NET, SERVER_NET, 0), columns)


def _frame(
    segment: Segment, client: bytes, server: bytes, *, client_port: int, checksum: int
) -> bytes:
    """The Ethernet frame; its TCP checksum is left out (fw1 does not look)."""
    mac = SERVER_SIDE_MAC if segment.reply else CLIENT_SIDE_MAC
    ends = (server, client) if segment.reply else (client, server)
    ports = (client_port, SERVER_PORT)
    return _PACKET.pack(
        bytes.fromhex(mac.replace(":", "")),
        bytes.fromhex(FAR_MAC.replace(":", "")),
        *(0x0800, 0x45, 0, 52, 0, 0x4000, 64, 6, checksum),
        *ends,
        *(ports[::-1] if segment.reply else ports),
        *(segment.sequence, segment.acknowledged, 0x80, segment.flags, 65535, 0, 0),
        _OPTIONS_SYN if segment.flags & SYN else _OPTIONS,
    )


def slot(packet: bytes) -> bytes:
    """The packet as it stands in a TPACKET_V2 transmit ring, ready to leave."""
    header = _SLOT.pack(_SEND_REQUEST, len(packet), len(packet), *[0] * 6)
    return (header + packet).ljust(FRAME_STRIDE, b"\0")


def probe_client(number: int) -> bytes:
    """The client address of one latency probe: nobody else has it."""
    return bytes((10, 200, number >> 8 & 0xFF, number & 0xFF))


def probe_slot(number: int) -> bytes:
    """The SYN of one latency probe, ready to leave."""
    client = probe_client(number)
    head = struct.pack(">HHHH", 0x4500, 52, 0x4000, 0x4006) + client + PROBE_SERVER
    checksum = _fold(sum(struct.unpack(">8H", head)))
    return slot(
        _frame(LIFE[0], client, PROBE_SERVER, client_port=PROBE_PORT, checksum=checksum)
    )


def delete_message(client: bytes, server: bytes, client_port: int) -> bytes:
    """The ctnetlink request that ends one TCP flow."""
    addresses = struct.pack("=HH4sHH4s", 8, 1, client, 8, 2, server)
    protocol = struct.pack("=HHB3x", 5, 1, 6)
    ports = struct.pack("=HH", 6, 2) + struct.pack(">Hxx", client_port)
    ports += struct.pack("=HH", 6, 3) + struct.pack(">Hxx", SERVER_PORT)
    value = struct.pack("=HH", 20, 0x8001) + addresses
    value += struct.pack("=HH", 28, 0x8002) + protocol + ports
    body = struct.pack("=BBH", 2, 0, 0) + struct.pack("=HH", 52, 0x8001) + value
    return struct.pack("=IHHII", 16 + len(body), _DELETE, _REQUEST, 0, 0) + body
