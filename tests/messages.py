"""ctnetlink messages of all shapes, made up by a seed.

Out: messages as a kernel might send them: every attribute that conntrack prints and
some that it does not, in any order, with values of every kind. `varied` gives a message
of the same shape with other values.
"""

import random
import struct
from collections.abc import Callable

from syncd.flows import nla

PROTOCOLS = (1, 6, 6, 6, 17, 17, 33, 47, 58, 132, 136, 50, 2, 0, 255)
_LEAVES = frozenset((1, 2, 3, 4, 7, 8))


def u8(kind: int, value: int) -> bytes:
    return nla.tlv(kind, bytes([value]))


def u16(kind: int, value: int) -> bytes:
    return nla.tlv(kind, value.to_bytes(2))


def u32(kind: int, value: int) -> bytes:
    return nla.tlv(kind, value.to_bytes(4))


def u64(kind: int, value: int) -> bytes:
    return nla.tlv(kind, value.to_bytes(8))


def message(
    *attributes: bytes, kind: int, flags: int, family: int, portid: int
) -> bytes:
    body = bytes((family, 0, 0, 0)) + b"".join(attributes)
    return struct.pack("<IHHII", 16 + len(body), kind, flags, 0, portid) + body


class Maker:
    """Makes messages, one as random as the next."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def address(self, size: int) -> bytes:
        chance = self.chance
        value = bytearray(chance.randbytes(size))
        if chance.random() < 0.6:
            for _ in range(chance.randrange(size)):
                value[chance.randrange(size)] = 0
        if size == 16 and chance.random() < 0.3:
            value[:12] = bytes(10) + chance.choice((b"\xff\xff", b"\0\0"))
        return bytes(value)

    def tuple(
        self, kind: int, size: int, protocol: int, zone: int | None = None
    ) -> bytes:
        chance = self.chance
        first = 1 if size == 4 else 3
        word = chance.randrange(1 << 16)
        if protocol in (1, 58):
            at = 4 if protocol == 1 else 7
            ends = u16(at, word) + u8(at + 1, word >> 8) + u8(at + 2, word & 0xFF)
        elif protocol in (6, 17, 47, 132, 136) or (protocol == 33 and word & 1):
            ends = u16(2, word) + u16(3, chance.randrange(1 << 16))
        else:
            ends = b""
        parts = [
            nla.nested(
                1,
                nla.tlv(first, self.address(size)),
                nla.tlv(first + 1, self.address(size)),
            ),
            nla.nested(2, u8(1, protocol), ends),
        ]
        if zone is not None:
            parts.append(u16(3, zone))
        return nla.nested(kind, *parts)

    def message(self) -> bytes:
        return self.expectation() if self.chance.random() < 0.2 else self.flow()

    def expectation(self) -> bytes:
        chance = self.chance
        family, size = chance.choice(((2, 4), (10, 16)))
        protocol = chance.choice(PROTOCOLS)
        attributes = [
            self.tuple(2, size, protocol),
            self.tuple(3, size, chance.choice((protocol, 0))),
            self.tuple(1, size, 6),
        ]
        more = [
            u32(4, chance.getrandbits(32)),
            u32(5, chance.getrandbits(32)),
            nla.tlv(6, chance.choice((b"ftp\0", b"sip-5061\0", b"Q.931\0"))),
            u16(7, chance.randrange(1 << 16)),
            u32(8, chance.randrange(8)),
            u32(9, chance.randrange(5)),
            nla.nested(10, u32(1, 1), self.tuple(2, size, protocol)),
            nla.tlv(11, b"nat-follow-master\0"),
        ]
        attributes += [one for one in more if chance.random() < 0.7]
        chance.shuffle(attributes)
        kind, flags = chance.choice(
            ((0x200, 2), (0x200, 0x600), (0x200, 0), (0x202, 0))
        )
        portid = chance.choice((0, 4711))
        return message(
            *attributes, kind=kind, flags=flags, family=family, portid=portid
        )

    def flow(self) -> bytes:
        chance = self.chance
        family, size = chance.choice(((2, 4), (10, 16)))
        protocol = chance.choice((*PROTOCOLS, chance.randrange(256)))
        zones = [
            chance.randrange(1 << 16) if chance.random() < 0.2 else None
            for _ in range(2)
        ]
        attributes = [self.tuple(1 + at, size, protocol, zones[at]) for at in range(2)]
        more = [*self._numbers(), *self._nested(size), *self._state(protocol)]
        attributes += [one for one in more if chance.random() < 0.6]
        if chance.random() < 0.3:
            chance.shuffle(attributes)
        kind, flags = chance.choice(
            ((0x100, 2), (0x100, 0x600), (0x100, 0), (0x102, 0))
        )
        portid = chance.choice((0, 4711))
        return message(
            *attributes, kind=kind, flags=flags, family=family, portid=portid
        )

    def _numbers(self) -> list[bytes]:
        word = self.chance.getrandbits
        return [
            u32(3, word(16)),
            *(u32(kind, word(32)) for kind in (7, 8, 11, 12, 17)),
            u16(18, word(16)),
            u64(26, word(63)),
            nla.tlv(0x3F0, b"xyz"),
        ]

    def _nested(self, size: int) -> list[bytes]:
        chance = self.chance
        word = chance.getrandbits
        times = (u64(1, word(60)), u64(2, chance.choice((0, word(62)))))
        labels = (chance.randbytes(16), bytes(16), b"\5" + bytes(15))
        odd_labels = (chance.randbytes(8), chance.randbytes(4))
        return [
            nla.nested(9, u64(1, word(64)), u64(2, word(64))),
            nla.nested(10, u64(1, word(64)), u64(2, word(64))),
            nla.nested(20, *(time for time in times if chance.random() < 0.8)),
            nla.nested(5, nla.tlv(1, chance.choice((b"ftp\0", b"RAS\0")))),
            nla.nested(19, nla.tlv(1, b"system_u:object_r:x_t\0")),
            nla.tlv(22, chance.choice((*labels, *odd_labels))),
            self.tuple(14, size, 6),
            *(
                nla.nested(kind, *(u32(at, word(32)) for at in (1, 2, 3)))
                for kind in (15, 16, 24)
            ),
        ]

    def _state(self, protocol: int) -> list[bytes]:
        chance = self.chance
        state = u8(1, chance.randrange(11))
        scales = u8(2, 3) + u8(3, 7) + nla.tlv(4, b"\x0a\0") + nla.tlv(5, b"\x23\0")
        tags = u32(2, chance.getrandbits(32)) + u32(3, chance.getrandbits(32))
        parts = {
            6: (1, scales),
            33: (2, u8(2, 1) + u64(3, chance.getrandbits(48))),
            132: (3, tags),
        }
        if protocol not in parts:
            return []
        kind, more = parts[protocol]
        return [nla.nested(4, nla.nested(kind, state, more))]


def varied(data: bytes, seed: int) -> bytes:
    """The same attributes with other values; what decides about names is kept."""
    chance = random.Random(seed)
    changed = bytearray(data)
    changed[12:16] = chance.randbytes(4)
    is_flow = data[5] == 1

    def vary(start: int, end: int) -> None:
        changed[start:end] = chance.randbytes(end - start)

    def leaves(start: int, end: int, change: Callable[[int, int, int], None]) -> None:
        for kind, _, value_start, value_end in nla.walk(data, start, end):
            change(kind, value_start, value_end)

    def end_of(kind: int, start: int, stop: int) -> None:
        # Of a tuple: addresses, ports and zone; the protocol's number stays.
        if kind == 1:
            leaves(start, stop, lambda _, at, to: vary(at, to))
        elif kind == 2:
            leaves(start, stop, lambda part, at, to: vary(at, to) if part > 1 else None)
        else:
            vary(start, stop)

    def top(kind: int, start: int, stop: int) -> None:
        tuples = (1, 2, 14) if is_flow else (1, 2, 3)
        if kind in tuples:
            leaves(start, stop, end_of)
        elif is_flow and kind in (9, 10, 15, 16, 24):
            leaves(start, stop, lambda _, at, to: vary(at, to))
        elif kind in ((7, 8, 11, 12, 17, 18, 22) if is_flow else (4, 5, 7, 9)):
            vary(start, stop)

    leaves(20, len(data), top)
    return bytes(changed)
