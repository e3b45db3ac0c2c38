"""Netlink attributes: bytes in, places of attributes out; values in, attributes out.

An attribute (TLV) is a length (u16) and a type (u16) in host order, a value, and
padding to 4 bytes; the length counts header and value. Bit 0x8000 of the type says
"nested". Only little endian hosts are supported, as are the recorded messages.
The rule: nothing is copied before somebody asks for it, and a length that does not fit
raises RecordError, so whatever was walked once may be sliced without a check.
"""

from collections.abc import Iterator
from struct import Struct

from syncd.errors import RecordError

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = Struct("<HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def walk(
    data: bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (type without flag bits, start, value start, value end) of each attribute.

    The attribute with its padding ends where the next one starts.
    """
    limit = len(data) if end is None else end
    if limit > len(data):
        raise RecordError(f"attributes end at {limit}, the data at {len(data)}")
    unpack_from = _HEADER.unpack_from
    while start < limit:
        if limit - start < 4:
            raise RecordError(f"attribute at {start}: no room for a header")
        length, kind = unpack_from(data, start)
        following = start + (length + 3 & ~3)
        if length < 4 or following > limit:
            raise RecordError(f"attribute at {start}: bad length {length}")
        yield kind & NLA_TYPE_MASK, start, start + 4, start + length
        start = following


def attributes(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Type -> whole attribute with header and padding; of duplicates the last one."""
    limit = len(data) if end is None else end
    if limit > len(data):
        raise RecordError(f"attributes end at {limit}, the data at {len(data)}")
    found = {}
    while start < limit - 3:  # as `walk`, at half the price
        length = data[start] | data[start + 1] << 8
        following = start + (length + 3 & ~3)
        if length < 4 or following > limit:
            raise RecordError(f"attribute at {start}: bad length {length}")
        kind = (data[start + 2] | data[start + 3] << 8) & NLA_TYPE_MASK
        found[kind] = data[start:following]
        start = following
    if start != limit:
        raise RecordError(f"attribute at {start}: no room for a header")
    return found


def values(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Type -> value alone; of duplicates the last one."""
    return {
        kind: data[value_start:value_end]
        for kind, _, value_start, value_end in walk(data, start, end)
    }


def find(data: bytes, wanted: int) -> int:
    """Where the first attribute of a type starts, -1 if nowhere."""
    start = 0
    limit = len(data) - 3
    while start < limit:
        if data[start + 2] == wanted and not data[start + 3] & 0x3F:
            return start
        length = data[start] | data[start + 1] << 8
        if length < 4:
            raise RecordError(f"attribute at {start}: bad length {length}")
        start += length + 3 & ~3
    return -1


def tlv(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _HEADER.pack(4 + len(value), kind) + value + _PADDING[len(value) & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """One attribute made of attributes."""
    return tlv(kind | NLA_F_NESTED, b"".join(parts))
