"""The hot path says what `restore` says, for flows of every shape there is.

Shapes are drawn by lot: protocols, families, zones, translations, status bits, protocol
states, everything optional present or not; and beside each one what a kernel may hold
of the same flow. Each is asked about when it is new to the hot path and when known.
"""

import random
from collections.abc import Callable

import pytest
from syncd.errors import RecordError
from syncd.flows import nla, restore
from syncd.flows.batch import Restorer
from syncd.flows.record import (
    CTA_HELP,
    CTA_LABELS,
    CTA_MARK,
    CTA_MARK_MASK,
    CTA_PROTOINFO,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    FLOW_ORDER,
)

_PORTS, _ICMP, _ICMPV6, _KEYS = (2, 3), (4, 5, 6), (7, 8, 9), (2, 3)
_PROTOCOLS: dict[int, tuple[int, ...]] = {
    6: _PORTS,
    17: _PORTS,
    132: _PORTS,
    136: _PORTS,
    47: _KEYS,
    1: _ICMP,
    58: _ICMPV6,
    50: (),
    2: (),
}
_Dice = random.Random
_MASKS = restore.be32(CTA_MARK_MASK, 0xFF)


def _tuple(
    kind: int, ends: tuple[bytes, bytes], number: int, parts: list[bytes], zone: bytes
) -> bytes:
    first = 1 if len(ends[0]) == 4 else 3
    addresses = (nla.tlv(first + i, end) for i, end in enumerate(ends))
    proto = (nla.tlv(k, v) for k, v in zip(_PROTOCOLS[number], parts, strict=True))
    return nla.nested(
        kind,
        nla.nested(1, *addresses),
        nla.nested(2, nla.tlv(1, bytes((number,))), *proto),
        zone,
    )


def _tuples(dice: _Dice) -> tuple[bytes, bytes]:
    """A key, and a reply tuple that may be translated."""
    size = dice.choice((4, 4, 16))
    number = dice.choice((*_PROTOCOLS, 6, 6, 17))
    source, target, other = (dice.randbytes(size) for _ in range(3))
    parts = [dice.randbytes(2) for _ in _PROTOCOLS[number]]
    if number in (1, 58):
        parts = [parts[0], b"\x08", b"\0"]
        back = [dice.choice((parts[0], dice.randbytes(2))), b"\0", b"\0"]
    else:
        back = [dice.choice((part, dice.randbytes(2))) for part in reversed(parts)]
    zones = [nla.tlv(3, b"\0\x09") if dice.random() < 0.1 else b"" for _ in range(2)]
    ends = dice.choice((target, other)), dice.choice((source, other))
    key = bytes((2 if size == 4 else 10, 0, 0, 0))
    key += _tuple(CTA_TUPLE_ORIG, (source, target), number, parts, zones[0])
    if dice.random() < 0.1:
        key += nla.tlv(CTA_ZONE, b"\0\x07")
    return key, _tuple(CTA_TUPLE_REPLY, ends, number, back, zones[1])


def _tcp(dice: _Dice) -> bytes:
    state = dice.choice((1, 2, 3, 3, 3, 7, 8, 9))
    scales = (nla.tlv(kind, bytes((dice.choice((0, 7, 14)),))) for kind in (2, 3))
    flags = (
        nla.tlv(kind, bytes((dice.choice((0, 3, 0x23, 0x3B)), 0))) for kind in (4, 5)
    )
    tcp = nla.nested(1, nla.tlv(1, bytes((state,))), *scales, *flags)
    return nla.nested(CTA_PROTOINFO, tcp)


def _sctp(dice: _Dice) -> bytes:
    tags = (nla.tlv(kind, dice.randbytes(4)) for kind in (2, 3))
    return nla.nested(CTA_PROTOINFO, nla.nested(3, nla.tlv(1, b"\4"), *tags))


def _adjust(kind: int) -> Callable[[_Dice], bytes]:
    return lambda dice: nla.nested(
        kind, *(restore.be32(n, dice.choice((0, 5, 9))) for n in (1, 2, 3))
    )


_STATUSES = (0x8, 0xA, 0xE, 0xE, 0x9, 0xF, 0x40E, 0x140A, 0x200E, 0x18E, 0x4E, 0x400E)
_MADE: dict[int, Callable[[_Dice], bytes]] = {
    CTA_STATUS: lambda dice: restore.be32(
        CTA_STATUS, dice.choice(_STATUSES) | dice.choice((0, 0, 0x10, 0x20, 0x30))
    ),
    CTA_TIMEOUT: lambda dice: restore.be32(
        CTA_TIMEOUT, dice.choice((0, 1, 30, 59, 119, 300, 301, 86400, 432_000, 500_000))
    ),
    CTA_HELP: lambda dice: nla.nested(
        CTA_HELP, nla.tlv(1, dice.choice((b"ftp\0", b"a-long-name-of-1\0")))
    ),
    CTA_LABELS: lambda dice: nla.tlv(CTA_LABELS, bytes(15) + dice.randbytes(1)),
    CTA_TUPLE_MASTER: lambda dice: _tuple(
        CTA_TUPLE_MASTER, (b"1234", b"5678"), 6, [dice.randbytes(2), b"\0\x15"], b""
    ),
    CTA_SEQ_ADJ_ORIG: _adjust(CTA_SEQ_ADJ_ORIG),
    CTA_SEQ_ADJ_REPLY: _adjust(CTA_SEQ_ADJ_REPLY),
    CTA_SYNPROXY: _adjust(CTA_SYNPROXY),
    CTA_MARK: lambda dice: restore.be32(CTA_MARK, dice.choice((1, 0xFF, 0xFFFFFFFF))),
}
_SHARES = {CTA_STATUS: 0.98, CTA_TIMEOUT: 0.97, CTA_MARK: 0.3}


def _parts(dice: _Dice, reply: bytes) -> dict[int, bytes]:
    """A body's attributes."""
    number = reply[32] if reply[10] == 1 else reply[56]
    parts = {CTA_TUPLE_REPLY: reply}
    for kind, make in _MADE.items():
        if dice.random() < _SHARES.get(kind, 0.12):
            parts[kind] = make(dice)
    if number not in (6, 17):
        parts.pop(CTA_HELP, None)  # no kernel has a helper for it
    if number in (6, 132) and dice.random() < 0.9:
        parts[CTA_PROTOINFO] = _tcp(dice) if number == 6 else _sctp(dice)
    return _with_helper_bit(parts)


def _with_helper_bit(parts: dict[int, bytes]) -> dict[int, bytes]:
    """Who has a helper that can be named anew got it from a rule, as the bit says."""
    if CTA_HELP in parts and CTA_STATUS in parts:
        status = restore.status_word(parts) | restore.HELPER
        parts[CTA_STATUS] = restore.be32(CTA_STATUS, status)
    return parts


def _body(parts: dict[int, bytes]) -> bytes:
    return b"".join(parts[kind] for kind in FLOW_ORDER if kind in parts)


def _held(dice: _Dice, parts: dict[int, bytes]) -> dict[int, bytes]:
    """What a kernel may have of the flow: the same, or some of it changed."""
    held = dict(parts)
    other = _parts(dice, parts[CTA_TUPLE_REPLY])
    for kind in (*_MADE, CTA_PROTOINFO):
        if dice.random() < 0.15:
            held.pop(kind, None)
            if kind in other:
                held[kind] = other[kind]
    if dice.random() < 0.5:
        held[CTA_TIMEOUT] = restore.be32(CTA_TIMEOUT, 77)
    return _with_helper_bit(held)


def _sent(message: bytes) -> tuple[bytes, dict[int, bytes]]:
    assert int.from_bytes(message[:4], "little") == len(message)
    return message[:20], nla.attributes(message, 20)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("fixed_s", "masks"), [(None, b""), (600, _MASKS)])
def test_flows_of_all_shapes_are_asked_for_as_restore_asks(
    seed: int, fixed_s: int | None, masks: bytes
) -> None:
    dice = random.Random(seed)
    restorer = Restorer(fixed_s, masks)
    made = alike = fast = 0
    for _ in range(400):
        key, reply = _tuples(dice)
        parts = _parts(dice, reply)
        body, held = _body(parts), _body(_held(dice, parts))
        record = (key, body, dice.choice((0.0, 3.5, 61.0, 250_000.0)))
        timeout_s = restorer.timeout_s(*record)
        try:
            created = restore.create(key, body, timeout_s, 7)
        except RecordError:
            created = b""
        for _ in range(2):
            (message,) = restorer.creates([record], 7)
            assert bool(message) == bool(created)
            if message:
                assert _sent(message) == _sent(created)
                made += 1
        same = restore.same_tuples(body, held) and restore.same_content(body, held)
        refreshed = restore.refresh(key, timeout_s, 7, held)
        updated = restore.update(key, body, timeout_s, 7, held, masks=masks)
        for _ in range(2):
            (message,) = restorer.refreshes([record], [held], 7)
            assert message in ((b"", refreshed) if same else (b"",))
            alike += bool(message)
            (message,) = restorer.updates([record], [held], 7)
            if message:
                assert restore.same_tuples(body, held)
                assert _sent(message) == _sent(updated)
                fast += 1
    assert made > 700
    assert alike > 100
    assert fast > 20
