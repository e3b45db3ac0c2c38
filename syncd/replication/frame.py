"""The wire: a frame <-> one datagram.

In: numbered content. Out: bytes of one datagram, and back. The rule of the room: what
a peer sends can only cause `FrameError`. This is the only module that knows msgpack
and zstandard. All integers of the envelope are msgpack's; keys and bodies are raw
netlink attributes in the sender's byte order (a peer with another one is refused at
its HELLO).

    datagram  [MAJOR, sender, epoch, number, payload, check, ...]   msgpack array
      MAJOR     int    protocol version; another one is refused
      sender    str    name of the node, 1..64 characters
      epoch     int    one life of a daemon, unique per sender
      number    int    1, 2, 3 ... over all frames of that epoch
      payload   bin    first byte = codec: 0 as it is, 1 zstandard with DICTIONARY,
                       2 sealed, see `seal.py`; behind such a payload stands nothing
      check     int    lower 32 bits of xxh3 over the payload, seeded with xxh3 over
                       the text "sender epoch number"; may be missing
    payload   [HELLO, {field: value}]                           fields: `Hello`
              [DATA, floor, resync, [key, body, ...], [key, ...],
                     [key, body, ...], [key, ...], 0, proof, inventory, ...]
      floor     int    lowest number of a frame that somebody may still miss
      resync    int    number of the pass that is going on, 0 = none
      lists            flows told, flows ended, expectations told, expectations ended
      0         int    (protocol 1.0: a comparison of a kind that is no longer made)
      proof     list   [marker, digest]; what has been told up to here, see `digest.py`
      inventory list   [first, last, bin]: short names and values of all records whose
                       short name is in that span, 4 + 4 bytes each, see `location.py`;
                       proof and inventory may be missing, or be empty lists; behind
                       them a probe has bytes that only make it long

Fields that stand behind the known ones, and unknown HELLO fields, are skipped: a
later minor version adds them there.
"""

import struct
from dataclasses import dataclass, field
from typing import cast

import msgpack
import zstandard

from syncd.errors import FrameError
from syncd.flows.digest import PACKED_BYTES, check_sum
from syncd.replication.hello import MAJOR, Hello, hello_fields, is_counter, read_hello

HELLO = 0
DATA = 1

NAME_LIMIT = 64
CHECK_BYTES = 5  # that the check adds to a plain datagram
CONTENT_LIMIT = 1 << 18  # bytes of a payload when unpacked
ITEM_LIMIT = 4096  # bytes of one key or body
_PLAIN = b"\x00"
_ZSTD = b"\x01"
_SEALED = b"\x02"
_LEVEL = -1  # 5 % larger than level 1, for two thirds of its time
_WORTH_COMPRESSING = 96  # shorter payloads gain nothing

_MIDDLE = struct.Struct(">BQBH")  # msgpack: uint 64, bin 16

Flat = list[bytes]
Inventory = tuple[int, int, bytes]
Numbered = tuple[int, bytes]  # number and payload of a frame that shall leave


@dataclass(slots=True)
class Data:
    """What changed: flat lists `[key, body, ...]` of what is, lists of what ended."""

    floor: int = 0
    resync: int = 0
    flows: Flat = field(default_factory=list)
    flow_ends: list[bytes] = field(default_factory=list)
    expectations: Flat = field(default_factory=list)
    expectation_ends: list[bytes] = field(default_factory=list)
    proof: tuple[int, bytes] | None = None
    inventory: Inventory | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """One datagram, its payload not looked into."""

    sender: str
    epoch: int
    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """Content of a kind that a later minor version knows."""

    kind: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One datagram, taken apart."""

    sender: str
    epoch: int
    number: int
    content: Hello | Data | Unknown


def envelope_bytes(sender: str) -> int:
    """What an envelope adds to a payload, at most."""
    largest = (1 << 63) - 1
    return len(cast(bytes, msgpack.packb((MAJOR, sender, largest, largest, b"")))) + 1


def envelope_head(sender: str, epoch: int) -> bytes:
    """An envelope up to its number, the same for a whole life."""
    head = msgpack.packb((MAJOR, sender))[1:] + b"\xcf" + epoch.to_bytes(8)
    return b"\x95" + cast(bytes, head)


def envelope_middle(number: int, length: int) -> bytes:
    """What stands between that and a payload of `length` bytes."""
    return _MIDDLE.pack(0xCF, number, 0xC5, length)


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

    def pack_data(self, data: Data) -> bytes:
        """The payload of one DATA frame; the caller looks at its length."""
        content = (
            DATA,
            data.floor,
            data.resync,
            data.flows,
            data.flow_ends,
            data.expectations,
            data.expectation_ends,
            0,
        )
        if data.proof is None and data.inventory is None:
            return self._pack(content)
        return self._pack((*content, data.proof or (), data.inventory or ()))

    def pack_probe(self, data: Data, payload_bytes: int) -> bytes:
        """The payload of a DATA frame with a field that makes it so long."""
        content = (DATA, data.floor, data.resync, (), (), (), (), 0, (), ())
        padding = payload_bytes - len(_PLAIN) - len(self._packb((*content, b""))) - 1
        return _PLAIN + cast(bytes, self._packb((*content, bytes(max(padding, 0)))))

    def pack_hello(self, hello: Hello) -> bytes:
        """The payload of one HELLO frame."""
        return self._pack((HELLO, hello_fields(hello)))

    def _pack(self, content: object) -> bytes:
        payload = self._packb(content)
        if len(payload) > _WORTH_COMPRESSING:
            return _ZSTD + self._zip.compress(payload)
        return _PLAIN + cast(bytes, payload)

    def wrap(self, sender: str, epoch: int, number: int, payload: bytes) -> bytes:
        """A payload in its envelope: one datagram."""
        envelope = (MAJOR, sender, epoch, number, payload)
        if payload[:1] == _SEALED:
            return cast(bytes, self._packb(envelope))
        check = _check(sender, epoch, number, payload)
        return cast(bytes, self._packb((*envelope, check)))

    def unpack(self, datagram: bytes) -> Frame:
        """One plain datagram as a frame; FrameError(version | malformed)."""
        envelope = self.unwrap(datagram)
        return Frame(
            envelope.sender,
            envelope.epoch,
            envelope.number,
            self.content(envelope.payload),
        )

    def unwrap(self, datagram: bytes) -> Envelope:
        """What stands around a payload; FrameError(version | malformed)."""
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
            or not is_counter(epoch)
            or not is_counter(number)
            or type(payload) is not bytes
        ):
            raise FrameError("malformed", "a frame with a field of a wrong kind")
        checked = list(map(type, envelope[5:6])) == [int] and payload[:1] != _SEALED
        if checked and envelope[5] != _check(sender, epoch, number, payload):
            raise FrameError("malformed", "a frame that was damaged on the way")
        return Envelope(sender, epoch, number, payload)

    def content(self, payload: bytes) -> Hello | Data | Unknown:
        """What a payload says; FrameError(malformed)."""
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
            return read_hello(content[1])
        if type(content[0]) is int and content[0] > DATA:
            return Unknown(content[0])
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


def _check(sender: str, epoch: int, number: int, payload: bytes) -> int:
    """A damaged frame that is not sealed must not become another node's state."""
    return check_sum(f"{sender} {epoch} {number}".encode(), payload)


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


def _is_records(items: object, group: int) -> bool:
    """A list of bytes of fair length, in groups of `group` (1 or 2)."""
    if type(items) is not list or len(items) % group:
        return False
    limit = ITEM_LIMIT
    for item in items:
        if type(item) is not bytes or not 4 <= len(item) <= limit:
            return False
    return True


def _data(content: list[object]) -> Data:
    if len(content) < 8:
        raise FrameError("malformed", "a DATA frame that ends early")
    _, floor, resync, flows, ends, expectations, expectation_ends = content[:7]
    if not (
        is_counter(floor)
        and is_counter(resync)
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
        _proof(content[8]) if len(content) > 8 else None,
        _inventory(content[9]) if len(content) > 9 else None,
    )


def _proof(item: object) -> tuple[int, bytes] | None:
    if item == []:
        return None
    if type(item) is list and len(item) > 1:
        marker, digest = item[:2]
        if is_counter(marker) and type(digest) is bytes and len(digest) == PACKED_BYTES:
            return marker, digest
    raise FrameError("malformed", "a DATA frame with a broken proof")


def _inventory(item: object) -> Inventory | None:
    if item == []:
        return None
    if type(item) is list and len(item) > 2:
        first, last, records = item[:3]
        if (
            is_counter(first)
            and is_counter(last)
            and type(records) is bytes
            and len(records) % 8 == 0
        ):
            return first, last, records
    raise FrameError("malformed", "a DATA frame with a broken inventory")


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
