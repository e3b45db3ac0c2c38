"""An independent little decoder: attributes back into facts.

In: whole messages, or the key and the body of a stored record. Out: the same `Facts`
and `Expected` that the model kernel keeps, so that the two can be compared by meaning.
It shares no code with `syncd/flows`.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache

from tests.sim.ctnetlink import (
    CTA,
    ICMP,
    ICMPV6,
    TCP,
    Expected,
    Facts,
    Tracker,
    Triple,
    Way,
)

_NAMES = {kind: name for name, kind in CTA.items()}
_REMEMBERED = 2048  # records: most are read again and again until they change
_head = struct.Struct("=HH").unpack_from


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute."""
    at = 0
    while at < len(data):
        length, kind = _head(data, at)
        if length < 4 or at + length > len(data):
            raise ValueError(f"an attribute of {length} bytes at {at}")
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def named(data: bytes) -> dict[str, bytes]:
    """The attributes of a flow by name; a name twice is an error."""
    found: dict[str, bytes] = {}
    for kind, value in walk(data):
        name = _NAMES.get(kind, f"attribute {kind}")
        if name in found:
            raise ValueError(f"{name} twice")
        found[name] = value
    return found


@lru_cache(_REMEMBERED)
def flow_facts(key: bytes, body: bytes) -> Facts:
    """A stored flow by its meaning."""
    return facts_of(named(key[4:] + body))


def facts_of(found: dict[str, bytes]) -> Facts:
    """Attributes of a flow by their meaning."""
    zeros = (0, 0, 0)
    orig = way_of(found["TUPLE_ORIG"])
    return Facts(
        orig=orig,
        reply=way_of(found["TUPLE_REPLY"]),
        status=_number(found["STATUS"]),
        zone=_number(found["ZONE"]) if "ZONE" in found else 0,
        tracker=_tracker(orig.protocol, found.get("PROTOINFO")),
        helper=_text(dict(walk(found["HELP"]))[1]) if "HELP" in found else "",
        labels=found.get("LABELS", b""),
        master=way_of(found["TUPLE_MASTER"]) if "TUPLE_MASTER" in found else None,
        adjust_orig=_triple(found.get("SEQ_ADJ_ORIG")),
        adjust_reply=_triple(found.get("SEQ_ADJ_REPLY")),
        synproxy=None if (proxy := _triple(found.get("SYNPROXY"))) == zeros else proxy,
        mark=_number(found["MARK"]) if "MARK" in found else 0,
    )


@lru_cache(_REMEMBERED)
def expectation_facts(key: bytes, body: bytes) -> Expected:
    """A stored expectation by its meaning; the zone in its key is left out."""
    return expected_of(dict(walk(key[4:] + body)))


def expected_of(found: dict[int, bytes]) -> Expected:
    """Attributes of an expectation by their meaning."""
    nat = None
    if 10 in found:
        parts = dict(walk(found[10]))
        nat = (_number(parts[1]), way_of(parts[2]))
    return Expected(
        way=way_of(found[2]),
        mask=way_of(found[3]),
        master=way_of(found[1]),
        nat=nat,
        flags=_number(found[8]),
        class_=_number(found[9]),
        helper=_text(found[6]),
        function=_text(found[11]) if 11 in found else "",
    )


def timeout_of(found: dict[str, bytes]) -> int | None:
    """Seconds left, None when the message does not say."""
    return _number(found["TIMEOUT"]) if "TIMEOUT" in found else None


def _number(value: bytes) -> int:
    return int.from_bytes(value)


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode()


def _triple(value: bytes | None) -> Triple | None:
    if value is None:
        return None
    parts = dict(walk(value))
    return _number(parts[1]), _number(parts[2]), _number(parts[3])


@lru_cache(_REMEMBERED)
def way_of(value: bytes) -> Way:
    """A tuple in one direction."""
    parts = dict(walk(value))
    addresses = dict(walk(parts[1]))
    proto = dict(walk(parts[2]))
    protocol = _number(proto.pop(1))
    first = 1 if 1 in addresses else 3
    numbers = tuple(_number(proto[kind]) for kind in sorted(proto))
    if protocol in (ICMP, ICMPV6) and len(numbers) != 3:
        raise ValueError("an ICMP tuple without id, type and code")
    zone = _number(parts[3]) if 3 in parts else 0
    return Way(addresses[first], addresses[first + 1], protocol, numbers, zone)


def _tracker(protocol: int, value: bytes | None) -> Tracker | None:
    if value is None:
        return None
    ((_, inner),) = walk(value)
    parts = dict(walk(inner))
    state = _number(parts[1])
    if 2 not in parts:
        return Tracker(state)
    if protocol == TCP:
        flags = parts[4][0], parts[5][0]
        return Tracker(state, _number(parts[2]), _number(parts[3]), *flags)
    return Tracker(state, _number(parts[2]), _number(parts[3]))
