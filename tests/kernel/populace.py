"""Flows of all kinds, and expectations, written into a kernel by a seed.

All protocols, NAT of all kinds, zones of both and of one direction, marks, labels,
helpers, sequence adjustments, SYN proxies; what the kernel refuses is not there.
"""

from syncd.flows import nla
from syncd.kernel.requests import RequestSocket

from tests.lab import inside
from tests.messages import Maker, u8, u16, u32


def request(
    kind: int, family: int, sequence: int, *attributes: bytes, flags: int = 0x601
) -> bytes:
    body = bytes((family, 0, 0, 0)) + b"".join(attributes)
    head = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little")
    return (
        head
        + flags.to_bytes(2, "little")
        + sequence.to_bytes(4, "little")
        + bytes(4)
        + body
    )


HELPERS = ((6, 21, b"ftp\0"), (17, 5060, b"sip\0"), (17, 69, b"tftp\0"))
KINDS = (6, 6, 6, 17, 17, 132, 47, 1, 58, 136, 33, 50, 2, 200)


class Populace:
    """Flows of all kinds, and expectations, written into a namespace's kernel."""

    def __init__(self, namespace: str, seed: int) -> None:
        self._maker = Maker(seed)
        self._chance = self._maker.chance
        self._namespace = namespace
        with inside(namespace):
            self._requests = RequestSocket()

    def close(self) -> None:
        self._requests.close()

    def add(self, count: int) -> int:
        """How many of so many flows the kernel took."""
        batch = [self._flow(number) for number in range(1, count + 1)]
        return count - len(self._requests.send(batch))

    def _flow(self, number: int) -> bytes:
        chance = self._chance
        protocol = chance.choice(KINDS)
        family = (
            2 if protocol == 1 else 10 if protocol == 58 else chance.choice((2, 10))
        )
        size = 4 if family == 2 else 16
        source, target, other = (self._maker.address(size) for _ in range(3))
        ports = chance.randrange(1 << 16), chance.randrange(1 << 16)
        helper = chance.choice(HELPERS) if chance.random() < 0.1 else None
        if helper is not None:
            protocol, ports = helper[0], (ports[0], helper[1])
        zones = self._zones()
        attributes = [
            _tuple(1, source, target, protocol, ports, zones[0]),
            _tuple(2, target, source, protocol, ports[::-1], zones[1], reply=True),
            u32(3, 8 | chance.choice((0, 2, 6, 6, 0x406))),
            u32(7, chance.choice((100, 5000, 432000))),
            *([u16(18, 1 + chance.randrange(9))] if chance.random() < 0.2 else []),
        ]
        if zones != (None, None) and len(attributes) == 5:
            attributes.pop()  # either the one or the other
        attributes += self._state(protocol)
        if chance.random() < 0.5:
            attributes.append(u32(8, chance.getrandbits(32)))
        if chance.random() < 0.3:
            attributes.append(nla.tlv(22, chance.randbytes(16)))
        if helper is not None:
            attributes.append(nla.nested(5, nla.tlv(1, helper[2])))
        if chance.random() < 0.2:
            members = b"".join(u32(kind, chance.getrandbits(31)) for kind in (1, 2, 3))
            attributes.append(nla.nested(chance.choice((15, 16, 24)), members))
        if chance.random() < 0.4 and protocol in (1, 6, 17, 132):
            attributes += self._translation(other, chance.randrange(1, 1 << 16))
        return request(0x100, family, number, *attributes)

    def _zones(self) -> tuple[int | None, int | None]:
        chance = self._chance
        pick = chance.random()
        zone = chance.randrange(1, 9)
        if pick < 0.1:
            return zone, None
        return (None, zone) if pick < 0.2 else (None, None)

    def _state(self, protocol: int) -> list[bytes]:
        chance = self._chance
        if protocol == 6:
            flags = nla.tlv(4, b"\x0f\x0f") + nla.tlv(5, b"\x0b\x0f")
            scales = u8(2, chance.randrange(15)) + u8(3, chance.randrange(15))
            state = u8(1, chance.randrange(10))
            return [nla.nested(4, nla.nested(1, state, scales, flags))]
        if protocol == 132:
            tags = u32(2, chance.getrandbits(32)) + u32(3, chance.getrandbits(32))
            return [nla.nested(4, nla.nested(3, u8(1, chance.randrange(9)), tags))]
        return []

    def _translation(self, address: bytes, port: int) -> list[bytes]:
        chance = self._chance
        first = 1 if len(address) == 4 else 4
        made = []
        for kind in (6, 13):  # CTA_NAT_SRC, CTA_NAT_DST
            if chance.random() < 0.6:
                ends = nla.tlv(first, address) + nla.tlv(first + 1, address)
                ports = nla.nested(3, u16(1, port), u16(2, port))
                pick = chance.random()
                made.append(nla.nested(kind, ends if pick < 0.7 else b"", ports))
        return made

    def expect(self, count: int) -> int:
        """Masters of all helpers, each with an expectation; how many there are."""
        chance, made = self._chance, 0
        for number in range(1, count + 1):
            family = chance.choice((2, 10))
            size = 4 if family == 2 else 16
            source, target = self._maker.address(size), self._maker.address(size)
            protocol, port, name = chance.choice(HELPERS)
            ports = chance.randrange(1 << 16), port
            master = request(
                0x100,
                family,
                number,
                _tuple(1, source, target, protocol, ports),
                _tuple(2, target, source, protocol, ports[::-1]),
                u32(3, 0xE),
                u32(7, 5000),
                nla.nested(5, nla.tlv(1, name)),
            )
            mask = b"\xff" * size
            wanted = (0, chance.randrange(1 << 16))
            expectation = request(
                0x200,
                family,
                number,
                _tuple(2, target, source, protocol, wanted),
                _tuple(3, mask, mask, protocol, (0, 0xFFFF)),
                _tuple(1, source, target, protocol, ports),
                u32(4, 300),
                u32(8, chance.choice((0, 1, 2))),
                u32(9, chance.randrange(4) if name == b"sip\0" else 0),
                nla.tlv(6, name),
            )
            if not self._requests.send([master]):
                made += not self._requests.send([expectation])
        return made


def _tuple(
    kind: int,
    source: bytes,
    target: bytes,
    protocol: int,
    ports: tuple[int, int],
    zone: int | None = None,
    *,
    reply: bool = False,
) -> bytes:
    first = 1 if len(source) == 4 else 3
    if protocol in (1, 58):
        at = 4 if protocol == 1 else 7
        ident = ports[1] if reply else ports[0]
        echo = {1: (8, 0), 58: (128, 129)}[protocol][reply]
        ends = u16(at, ident) + u8(at + 1, echo) + u8(at + 2, 0)
    elif protocol in (50, 2, 200, 33):
        ends = b""
    else:
        ends = u16(2, ports[0]) + u16(3, ports[1])
    zoned = [] if zone is None else [u16(3, zone)]
    return nla.nested(
        kind,
        nla.nested(1, nla.tlv(first, source), nla.tlv(first + 1, target)),
        nla.nested(2, u8(1, protocol), ends),
        *zoned,
    )
