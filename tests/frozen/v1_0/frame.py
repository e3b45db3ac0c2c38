"""The wire: a frame <-> one datagram.

In: numbered content. Out: bytes of one datagram, and back. The rule of the room: what
a peer sends can only cause `FrameError`. This is the only module that knows msgpack
and zstandard. All integers of the envelope are msgpack's; keys and bodies are raw
netlink attributes in the sender's byte order (a peer with another one is refused at
its HELLO).

    datagram  [MAJOR, sender, epoch, number, payload, ...]     msgpack array
      MAJOR     int    protocol version; another one is refused
      sender    str    name of the node, 1..64 characters
      epoch     int    one life of a daemon, unique per sender
      number    int    1, 2, 3 ... over all frames of that epoch
      payload   bin    first byte = codec: 0 as it is, 1 zstandard with DICTIONARY
    payload   [HELLO, {field: value}]                           fields: `Hello`
              [DATA, floor, resync, [key, body, ...], [key, ...],
                     [key, body, ...], [key, ...], marker, ...]
      floor     int    lowest number of a frame that somebody may still miss
      resync    int    number of the pass that is going on, 0 = none
      lists            flows told, flows ended, expectations told, expectations ended
      marker    int    number of the comparison whose snapshot is taken here, 0 = none

Fields that stand behind the known ones, and unknown HELLO fields, are skipped: a
later minor version adds them there.
"""

import struct
import sys
from dataclasses import dataclass, field
from typing import cast

import msgpack
import zstandard
from syncd.errors import FrameError

MAJOR = 1
MINOR = 0
HELLO = 0
DATA = 1

NAME_LIMIT = 64
CONTENT_LIMIT = 1 << 18  # bytes of a payload when unpacked
ITEM_LIMIT = 4096  # bytes of one key or body
_PLAIN = b"\x00"
_ZSTD = b"\x01"
_LEVEL = -1  # 5 % larger than level 1, for two thirds of its time
_WORTH_COMPRESSING = 96  # shorter payloads gain nothing

Flat = list[bytes]


@dataclass(slots=True)
class Data:
    """What changed: flat lists `[key, body, ...]` of what is, lists of what ended."""

    floor: int = 0
    resync: int = 0
    flows: Flat = field(default_factory=list)
    flow_ends: list[bytes] = field(default_factory=list)
    expectations: Flat = field(default_factory=list)
    expectation_ends: list[bytes] = field(default_factory=list)
    marker: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """What one node has of another one's frames.

    `lost` are pairs (first, last) of numbers that will not be waited for. `wants` is
    -1 when in step, else the number of a pass: any later one is wanted; it is said of
    service `service` (see `Service`). `claim` is the highest claim that node ever
    told, `primary` whether it last said to be primary. `marker` and `verdict` are the
    result of the latest comparison (see `digest.py`).
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

    `services` are the nodes that the sender serves. `digest` is (marker, flows,
    expectations, value) of the own tables. `compare` counts the comparisons that this
    node asked for.
    """

    version: tuple[int, int] = (MAJOR, MINOR)
    order: str = sys.byteorder
    capabilities: tuple[str, ...] = ("zstd",)
    role: str = "backup"
    claim: int = 0
    owner: bool = False
    floor: int = 0
    reply: bool = False
    flows: int = 0
    expectations: int = 0
    acks: tuple[Ack, ...] = ()
    services: tuple[Service, ...] = ()
    digest: tuple[int, int, int, int] = (0, 0, 0, 0)
    compare: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One datagram, taken apart."""

    sender: str
    epoch: int
    number: int
    content: Hello | Data


class Coder:
    """Packs and unpacks; keeps the compressor's contexts."""

    __slots__ = ("_packb", "_unzip", "_zip")

    def __init__(self) -> None:
        words = zstandard.ZstdCompressionDict(
            _dictionary(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
        words.precompute_compress(level=_LEVEL)
        self._zip = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=words, write_checksum=False, write_dict_id=False
        )
        self._unzip = zstandard.ZstdDecompressor(dict_data=words)
        self._packb = msgpack.Packer(autoreset=True).pack

    def pack_data(self, sender: str, epoch: int, number: int, data: Data) -> bytes:
        """One DATA frame as a datagram; the caller looks at its length."""
        return self._pack(
            sender,
            epoch,
            number,
            (
                DATA,
                data.floor,
                data.resync,
                data.flows,
                data.flow_ends,
                data.expectations,
                data.expectation_ends,
                data.marker,
            ),
        )

    def pack_hello(self, sender: str, epoch: int, number: int, hello: Hello) -> bytes:
        """One HELLO frame as a datagram."""
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
            )
            for ack in hello.acks
        ]
        fields = {
            "version": hello.version,
            "order": hello.order,
            "capabilities": hello.capabilities,
            "role": hello.role,
            "claim": hello.claim,
            "owner": hello.owner,
            "floor": hello.floor,
            "reply": hello.reply,
            "flows": hello.flows,
            "expectations": hello.expectations,
            "acks": acks,
            "services": [(s.node, s.epoch, s.number, s.told) for s in hello.services],
            "digest": hello.digest,
            "compare": hello.compare,
        }
        return self._pack(sender, epoch, number, (HELLO, fields))

    def _pack(self, sender: str, epoch: int, number: int, content: object) -> bytes:
        payload = self._packb(content)
        if len(payload) > _WORTH_COMPRESSING:
            payload = _ZSTD + self._zip.compress(payload)
        else:
            payload = _PLAIN + payload
        return cast(bytes, self._packb((MAJOR, sender, epoch, number, payload)))

    def unpack(self, datagram: bytes) -> Frame:
        """One datagram as a frame; FrameError(version | malformed)."""
        envelope = _unpackb(datagram, 1 << 16)
        if type(envelope) is not list or not envelope:
            raise FrameError("malformed", "a datagram that is no frame of syncd")
        if envelope[0] != MAJOR:
            if type(envelope[0]) is int and len(envelope) > 1:
                raise FrameError(
                    "version",
                    f"speaks protocol version {envelope[0]}, this node speaks {MAJOR}: "
                    "run the same major version of syncd on all nodes",
                )
            raise FrameError("malformed", "a datagram that is no frame of syncd")
        if len(envelope) < 5:
            raise FrameError("malformed", "a frame that ends early")
        _, sender, epoch, number, payload = envelope[:5]
        if (
            type(sender) is not str
            or not 0 < len(sender) <= NAME_LIMIT
            or not sender.isprintable()
            or not _is_counter(epoch)
            or not _is_counter(number)
            or type(payload) is not bytes
        ):
            raise FrameError("malformed", "a frame with a field of a wrong kind")
        return Frame(sender, epoch, number, self._content(payload))

    def _content(self, payload: bytes) -> Hello | Data:
        if payload[:1] == _ZSTD:
            payload = self._decompress(payload[1:])
        elif payload[:1] == _PLAIN:
            payload = payload[1:]
        else:
            raise FrameError("malformed", "a payload of an unknown codec")
        content = _unpackb(payload, CONTENT_LIMIT)
        if type(content) is not list or not content:
            raise FrameError("malformed", "a payload that is no list")
        if content[0] == DATA:
            return _data(content)
        if content[0] == HELLO and len(content) > 1 and type(content[1]) is dict:
            return _hello(content[1])
        raise FrameError("malformed", "a payload of an unknown kind")

    def _decompress(self, packed: bytes) -> bytes:
        try:
            size = zstandard.frame_content_size(packed)
            if not 0 <= size <= CONTENT_LIMIT:
                raise FrameError("malformed", "a compressed payload of no fair size")
            return self._unzip.decompress(packed, max_output_size=CONTENT_LIMIT)
        except zstandard.ZstdError as error:
            raise FrameError(
                "malformed", f"a broken compressed payload: {error}"
            ) from error


def _unpackb(packed: bytes, limit: int) -> object:
    """msgpack with every limit set; whatever it raises is a malformed frame."""
    try:
        return cast(
            object,
            msgpack.unpackb(
                packed,
                raw=False,
                strict_map_key=True,
                max_str_len=256,
                max_bin_len=limit,
                max_array_len=limit // 2,
                max_map_len=64,
                max_ext_len=0,
            ),
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError("malformed", f"not msgpack: {error}"[:120]) from error


def _is_counter(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_records(items: object, group: int) -> bool:
    """A list of bytes of fair length, in groups of `group` (1 or 2)."""
    if type(items) is not list:
        return False
    if not items:
        return True
    if len(items) % group or set(map(type, items)) != {bytes}:
        return False
    lengths = set(map(len, items))
    return max(lengths) <= ITEM_LIMIT and min(lengths) >= 4


def _data(content: list[object]) -> Data:
    if len(content) < 8:
        raise FrameError("malformed", "a DATA frame that ends early")
    _, floor, resync, flows, ends, expectations, expectation_ends, marker = content[:8]
    if not (
        _is_counter(floor)
        and _is_counter(resync)
        and _is_counter(marker)
        and _is_records(flows, 2)
        and _is_records(ends, 1)
        and _is_records(expectations, 2)
        and _is_records(expectation_ends, 1)
    ):
        raise FrameError("malformed", "a DATA frame with a field of a wrong kind")
    return Data(
        cast(int, floor),
        cast(int, resync),
        cast(Flat, flows),
        cast(Flat, ends),
        cast(Flat, expectations),
        cast(Flat, expectation_ends),
        cast(int, marker),
    )


def _hello(fields: dict[object, object]) -> Hello:
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
    digest = _counters(fields.get("digest", known.digest), 4, "digest")
    return Hello(
        version=(version[0], version[1]),
        order=_text(fields, "order", known.order),
        capabilities=tuple(cast("list[str]", words)),
        role=_text(fields, "role", known.role),
        claim=_number(fields, "claim"),
        owner=fields.get("owner") is True,
        floor=_number(fields, "floor"),
        reply=fields.get("reply") is True,
        flows=_number(fields, "flows"),
        expectations=_number(fields, "expectations"),
        acks=tuple(_ack(ack) for ack in acks),
        services=tuple(_service(entry) for entry in services),
        digest=(digest[0], digest[1], digest[2], digest[3]),
        compare=_number(fields, "compare"),
    )


def _text(fields: dict[object, object], name: str, default: str) -> str:
    value = fields.get(name, default)
    if type(value) is not str or not value.isprintable():
        raise FrameError("malformed", f"a HELLO whose {name} is no text")
    return value


def _number(fields: dict[object, object], name: str) -> int:
    value = fields.get(name, 0)
    if not _is_counter(value):
        raise FrameError("malformed", f"a HELLO whose {name} is no number")
    return cast(int, value)


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
    lost = _gaps_to_ranges(highest, _counters(gaps, len(gaps), "acknowledgement"))
    return Ack(
        entry[0],
        epoch,
        highest,
        lost,
        wants,
        service,
        claim,
        primary == 1,
        marker,
        verdict,
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


def _dictionary() -> bytes:
    """What most payloads hold already: the shapes of common flows, packed.

    Both sides must build the same bytes: a change here is a new codec number.
    """

    def tlv(kind: int, value: bytes) -> bytes:
        return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    def tuple_tlv(kind: int, source: bytes, target: bytes, protocol: int) -> bytes:
        at = 1 if len(source) == 4 else 3
        addresses = tlv(0x8001, tlv(at, source) + tlv(at + 1, target))
        ports = tlv(2, b"\xc0\x01") + tlv(3, b"\x01\xbb")
        proto = tlv(0x8002, tlv(1, bytes((protocol,))) + ports)
        return tlv(0x8000 | kind, addresses + proto)

    def flow(address: bytes, protocol: int, status: int, seconds: int) -> list[bytes]:
        family = b"\x02" if len(address) == 4 else b"\x0a"
        key = family + bytes(3) + tuple_tlv(1, address, address, protocol)
        body = tuple_tlv(2, address, address, protocol)
        body += tlv(3, struct.pack(">I", status)) + tlv(7, struct.pack(">I", seconds))
        if protocol == 6:
            scale = tlv(2, b"\x07") + tlv(3, b"\x07")
            flags = tlv(4, b"\x23\x00") + tlv(5, b"\x23\x00")
            state = tlv(1, b"\x03")
            body += tlv(0x8004, tlv(0x8001, state + scale + flags))
        return [key, body]

    four, six = b"\x0a\x00\x00\x01", b"\xfd" + bytes(14) + b"\x01"
    shapes = (
        flow(six, 17, 0x18A, 30),
        flow(six, 6, 0x18E, 432000),
        flow(four, 17, 0x19A, 30),
        flow(four, 6, 0x18E, 120),
        flow(four, 6, 0x19E, 432000),
    )
    return b"".join(
        cast(bytes, msgpack.packb(item)) for pair in shapes for item in pair
    )
