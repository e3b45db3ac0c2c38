"""What a HELLO says, and how its fields look on the wire.

In: a `Hello`. Out: the map of a HELLO frame, and back. The rule of the room: a field
that is missing has its default, one that is unknown is skipped, one of a wrong kind is
a `FrameError`. Later minor versions only add fields.
"""

import sys
from dataclasses import dataclass, replace
from typing import cast

from syncd.errors import FrameError

MAJOR = 1
MINOR = 1
KEY_ID_BYTES = 4
KEYS_LIMIT = 16
CLAIM_LIMIT = 1 << 62  # a larger claim cannot have been reached by counting
FATE_ITEMS_LIMIT = 512
FATE_TEXT_LIMIT = 128  # characters of a name or of a value

Value = int | str
Item = tuple[str, Value]


@dataclass(frozen=True, slots=True)
class Ack:
    """What one node has of another one's frames.

    `lost` are pairs (first, last) of numbers that will not be waited for. `wants` is
    -1 when in step, else the number of a pass: any later one is wanted; it is said of
    service `service` (see `Service`). `claim` is the highest claim that node ever
    told, `primary` whether it last said to be primary. `marker` and `verdict` are the
    result of the latest comparison, `buckets` (a bit set) what was different, and
    `asks` the short names of records that shall be told again (see `comparison.py`).
    """

    node: str
    epoch: int
    highest: int
    lost: tuple[tuple[int, int], ...] = ()
    wants: int = 0
    service: int = 0
    claim: int = 0
    primary: bool = False
    marker: int = 0
    verdict: int = 0
    buckets: int = 0
    asks: tuple[int, ...] = ()

    def shorter(self) -> "Ack":
        """The older half of it: as if later frames had not come yet."""
        kept = self.lost[: len(self.lost) // 2]
        return replace(self, lost=kept, highest=kept[-1][1]) if kept else self


@dataclass(frozen=True, slots=True)
class Way:
    """The link that this copy of a HELLO left by.

    `via` is its place at the sender, `room` what the sender can take there, in bytes of
    a datagram. A `beacon` shows that the link works; the stream goes over another one.
    """

    via: int
    room: int = 0
    interval_ms: int = 0
    beacon: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """What the sender's kernel is set to, as far as restored flows depend on it.

    `digest` is over all items, `wanted` are the nodes that shall tell theirs. With
    `parts` > 0 this HELLO has one part of the items; see `fate.py`.
    """

    digest: int
    wanted: tuple[str, ...] = ()
    part: int = 0
    parts: int = 0
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """The sender serves that node: it waits for its acknowledgements.

    `number` is new each time the service begins: what came before may have been
    missed, so everything is wanted again. `told` is the last pass that the node was
    told in full, 0 = none.
    """

    node: str
    epoch: int
    number: int
    told: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """Heartbeat, acknowledgement and control of one node; see `Engine`.

    `services` are the nodes that the sender serves. `compare` counts the comparisons
    that this node asked for. `keys` are the ids of the keys that the sender opens
    sealed frames with; none tells that it opens none.
    `hears` are the places of other nodes' links that the sender hears them by.
    """

    version: tuple[int, int] = (MAJOR, MINOR)
    order: str = sys.byteorder
    capabilities: tuple[str, ...] = ("zstd", "digest")
    mode: str = "reliable"  # how changes are told; one mode for all nodes
    role: str = "backup"
    claim: int = 0
    owner: bool = False
    floor: int = 0
    reply: bool = False
    flows: int = 0
    expectations: int = 0
    acks: tuple[Ack, ...] = ()
    services: tuple[Service, ...] = ()
    compare: int = 0
    keys: tuple[bytes, ...] = ()
    way: Way | None = None
    hears: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    fate: Fate | None = None


def hello_fields(hello: Hello) -> dict[str, object]:
    """The map of a HELLO frame."""
    acks = [
        (
            ack.node,
            ack.epoch,
            ack.highest,
            _ranges_to_gaps(ack.highest, ack.lost),
            ack.wants,
            ack.service,
            ack.claim,
            int(ack.primary),
            ack.marker,
            ack.verdict,
            ack.buckets,
            ack.asks,
        )
        for ack in hello.acks
    ]
    fields: dict[str, object] = {
        "version": hello.version,
        "order": hello.order,
        "capabilities": hello.capabilities,
        "mode": hello.mode,
        "role": hello.role,
        "claim": hello.claim,
        "owner": hello.owner,
        "floor": hello.floor,
        "reply": hello.reply,
        "flows": hello.flows,
        "expectations": hello.expectations,
        "acks": acks,
        "services": [(s.node, s.epoch, s.number, s.told) for s in hello.services],
        "compare": hello.compare,
        "keys": hello.keys,
    }
    if hello.way is not None:
        way = hello.way
        fields["way"] = (way.via, way.room, way.interval_ms, int(way.beacon))
    if hello.hears is not None:
        fields["hears"] = hello.hears
    if hello.fate is not None:
        fate = hello.fate
        fields["fate"] = [fate.digest, fate.wanted]
        if fate.parts:
            flat = [part for item in fate.items for part in item]
            fields["fate"] = [fate.digest, fate.wanted, fate.part, fate.parts, flat]
    return fields


def is_counter(value: object) -> bool:
    """An unsigned number that fits in 63 bits?"""
    return type(value) is int and 0 <= value < 1 << 63


def read_hello(fields: dict[object, object]) -> Hello:
    """A HELLO from its map; a missing field has its default."""
    known = Hello()
    version = _counters(fields.get("version", known.version), 2, "version")
    words = fields.get("capabilities", ())
    if type(words) is not list or any(type(word) is not str for word in words):
        words = []
    acks = fields.get("acks", [])
    services = fields.get("services", [])
    if type(acks) is not list or type(services) is not list:
        raise FrameError("malformed", "a HELLO with a field of a wrong kind")
    return Hello(
        version=(version[0], version[1]),
        order=_text(fields, "order", known.order),
        capabilities=tuple(cast("list[str]", words)),
        mode=_text(fields, "mode", known.mode),
        role=_text(fields, "role", known.role),
        claim=_claim(_number(fields, "claim")),
        owner=fields.get("owner") is True,
        floor=_number(fields, "floor"),
        reply=fields.get("reply") is True,
        flows=_number(fields, "flows"),
        expectations=_number(fields, "expectations"),
        acks=tuple(_ack(ack) for ack in acks),
        services=tuple(_service(entry) for entry in services),
        compare=_number(fields, "compare"),
        keys=_key_ids(fields.get("keys", [])),
        way=_way(fields.get("way")),
        hears=_hears(fields.get("hears")),
        fate=_fate(fields.get("fate")),
    )


def _way(value: object) -> Way | None:
    if value is None:
        return None
    via, room, interval_ms, beacon = _counters(value, 4, "way")
    return Way(via, room, interval_ms, beacon == 1)


def _hears(value: object) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    if value is None:
        return None
    if type(value) is not list:
        raise FrameError("malformed", "a HELLO with a field of a wrong kind")
    heard = []
    for entry in value:
        if type(entry) is not list or len(entry) < 2 or type(entry[0]) is not str:
            raise FrameError("malformed", "a HELLO with a broken list of links")
        places = entry[1] if type(entry[1]) is list else [None]
        heard.append((entry[0], tuple(_counters(places, len(places), "links"))))
    return tuple(heard)


def _fate(value: object) -> Fate | None:
    if value is None:
        return None
    broken = FrameError("malformed", "a HELLO with broken settings")
    if type(value) is not list or len(value) < 2 or not is_counter(value[0]):
        raise broken
    digest, wanted = value[:2]
    if not digest or type(wanted) is not list or not all(map(_is_word, wanted)):
        raise broken
    if len(value) < 5:
        return Fate(digest, tuple(wanted))
    part, parts = _counters(value[2:4], 2, "settings")
    flat = value[4]
    if not part < parts <= FATE_ITEMS_LIMIT or type(flat) is not list:
        raise broken
    names, values = flat[::2], flat[1::2]
    if len(names) != len(values) or len(names) > FATE_ITEMS_LIMIT:
        raise broken
    if not all(map(_is_word, names)) or not all(map(_is_value, values)):
        raise broken
    items = tuple(zip(names, values, strict=True))
    return Fate(digest, tuple(wanted), part, parts, items)


def _is_word(value: object) -> bool:
    return type(value) is str and len(value) <= FATE_TEXT_LIMIT and value.isprintable()


def _is_value(value: object) -> bool:
    return type(value) is int or _is_word(value)


def _text(fields: dict[object, object], name: str, default: str) -> str:
    value = fields.get(name, default)
    if type(value) is not str or not value.isprintable():
        raise FrameError("malformed", f"a HELLO whose {name} is no text")
    return value


def _number(fields: dict[object, object], name: str) -> int:
    value = fields.get(name, 0)
    if not is_counter(value):
        raise FrameError("malformed", f"a HELLO whose {name} is no number")
    return cast(int, value)


def _claim(value: int) -> int:
    if value >= CLAIM_LIMIT:
        raise FrameError("malformed", "a HELLO with a claim that cannot be")
    return value


def _key_ids(value: object) -> tuple[bytes, ...]:
    """A list of key ids; what else is in it is none."""
    items = value if type(value) is list else []
    ids = [item for item in items if type(item) is bytes and len(item) == KEY_ID_BYTES]
    return tuple(ids[:KEYS_LIMIT])


def _counters(value: object, length: int, name: str) -> list[int]:
    """A sequence of at least `length` unsigned numbers below 2**64."""
    if not isinstance(value, list | tuple) or len(value) < length:
        raise FrameError("malformed", f"a HELLO whose {name} is no list of numbers")
    if any(type(item) is not int or not 0 <= item < 1 << 64 for item in value):
        raise FrameError("malformed", f"a HELLO whose {name} is no list of numbers")
    return cast("list[int]", list(value[:length]))


def _service(entry: object) -> Service:
    if type(entry) is not list or len(entry) < 4 or type(entry[0]) is not str:
        raise FrameError("malformed", "a HELLO with a broken service")
    epoch, number, told = _counters(entry[1:4], 3, "service")
    return Service(entry[0], epoch, number, told)


def _ack(entry: object) -> Ack:
    if type(entry) is not list or len(entry) < 10 or type(entry[0]) is not str:
        raise FrameError("malformed", "a HELLO with a broken acknowledgement")
    wants = entry[4]
    if type(wants) is not int or not -1 <= wants < 1 << 63:
        raise FrameError("malformed", "a HELLO with a broken acknowledgement")
    epoch, highest = _counters(entry[1:3], 2, "acknowledgement")
    gaps = entry[3]
    if type(gaps) is not list or len(gaps) % 2 or len(gaps) > 4096:
        raise FrameError("malformed", "a HELLO with a broken acknowledgement")
    rest = _counters(entry[5:10], 5, "acknowledgement")
    service, claim, primary, marker, verdict = rest
    buckets, asks = 0, entry[11] if len(entry) > 11 else []
    if len(entry) > 10:
        [buckets] = _counters(entry[10:11], 1, "acknowledgement")
    if type(asks) is not list or len(asks) > 4096:
        raise FrameError("malformed", "a HELLO with a broken acknowledgement")
    lost = _gaps_to_ranges(highest, _counters(gaps, len(gaps), "acknowledgement"))
    return Ack(
        entry[0],
        epoch,
        highest,
        lost,
        wants,
        service,
        _claim(claim),
        primary == 1,
        marker,
        verdict,
        buckets,
        tuple(_counters(asks, len(asks), "acknowledgement")),
    )


def _ranges_to_gaps(highest: int, lost: tuple[tuple[int, int], ...]) -> list[int]:
    """Ranges as small numbers: back from `highest` to last, back to first, ..."""
    gaps: list[int] = []
    at = highest
    for first, last in reversed(lost):
        gaps += (at - last, last - first)
        at = first
    return gaps


def _gaps_to_ranges(highest: int, gaps: list[int]) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    at = highest
    for back, length in zip(gaps[::2], gaps[1::2], strict=True):
        last = at - back
        at = last - length
        if at < 0:
            raise FrameError("malformed", "a HELLO with a broken acknowledgement")
        ranges.append((at, last))
    return tuple(reversed(ranges))
