"""Flows made of what a person would say of them, as the kernel writes them.

In: a `Shape`. Out: key and body. For tests that need many flows of all kinds; what a
real kernel says of real ones stands in tests/data.
"""

import ipaddress
from dataclasses import dataclass, replace

from syncd.flows.nla import nested, tlv
from syncd.flows.record import (
    CTA_LABELS,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    Record,
    mask_of,
)

CLIENT, SERVER, FIREWALL = "10.1.0.10", "10.2.0.10", "10.2.0.1"
SEEN_REPLY, ASSURED, CONFIRMED, SRC_NAT, DST_NAT = 0x2, 0x4, 0x8, 0x10, 0x20
TCP, UDP = 6, 17


@dataclass(frozen=True)
class Shape:
    """A flow in words."""

    src: str = CLIENT
    dst: str = SERVER
    reply_src: str = SERVER
    reply_dst: str = CLIENT
    protocol: int = TCP
    sport: int = 1000
    status: int = CONFIRMED
    state: int | None = 3
    mark: int | None = None
    labels: bytes = b""
    zone: int = 0  # of both directions
    orig_zone: int = 0
    reply_zone: int = 0
    ident: int = 1

    def but(self, **changes: object) -> "Shape":
        return replace(self, **changes)  # type: ignore[arg-type]  # named by tests

    @property
    def key(self) -> bytes:
        family = b"\x02\0\0\0" if "." in self.src else b"\x0a\0\0\0"
        tuple_ = self._tuple(CTA_TUPLE_ORIG, self.src, self.dst, self.orig_zone)
        zone = tlv(CTA_ZONE, self.zone.to_bytes(2)) if self.zone else b""
        return family + tuple_ + zone

    @property
    def body(self) -> bytes:
        parts = [
            self._tuple(
                CTA_TUPLE_REPLY, self.reply_src, self.reply_dst, self.reply_zone
            ),
            tlv(CTA_STATUS, self.status.to_bytes(4)),
            tlv(CTA_TIMEOUT, (100).to_bytes(4)),
        ]
        if self.state is not None:
            parts.append(nested(CTA_PROTOINFO, nested(1, tlv(1, bytes([self.state])))))
        if self.labels:
            parts.append(tlv(CTA_LABELS, self.labels))
        if self.mark is not None:
            parts.append(tlv(CTA_MARK, self.mark.to_bytes(4)))
        return b"".join(parts)

    def record(self, kind: int) -> Record:
        """What the kernel says of it."""
        body = self.body
        return kind, self.key, body, self.ident.to_bytes(4), mask_of(body)

    def _tuple(self, kind: int, src: str, dst: str, zone: int) -> bytes:
        first = 1 if "." in src else 3
        ends = [ipaddress.ip_address(text).packed for text in (src, dst)]
        parts = [
            nested(1, tlv(first, ends[0]), tlv(first + 1, ends[1])),
            nested(
                2,
                tlv(1, bytes([self.protocol])),
                tlv(2, self.sport.to_bytes(2)),
                tlv(3, (80).to_bytes(2)),
            ),
        ]
        if zone:
            parts.append(tlv(3, zone.to_bytes(2)))
        return nested(kind, *parts)
