"""The shapes of messages: a message that was walked comes in, layouts go out.

The kernel writes few shapes of messages. A layout of one says which attribute headers
sit where and which bytes are key, body, ident: a message with exactly these headers is
cut by slices, without a walk.

The rule: what a layout cuts is what `RecordReader.read_one` finds by its walk.
"""

from collections.abc import Callable
from itertools import chain, combinations
from operator import itemgetter
from struct import Struct

from syncd.flows.nla import walk
from syncd.flows.record import (
    CANONICAL,
    CTA_EXPECT_ID,
    CTA_EXPECT_MASK,
    CTA_EXPECT_TUPLE,
    CTA_EXPECT_ZONE,
    CTA_ID,
    CTA_TUPLE_ORIG,
    CTA_ZONE,
    DUMP,
    EXPECTATION_ORDER,
    FLOW_ORDER,
    UPDATE,
    ZEROS,
)

NFGEN = 16  # where nfgenmsg starts
FIRST = 20  # where the attributes start

# How a layout cuts. PLAIN: key, first of body, ident, rest of body, in this order.
# ZONED: key, first of body, zone, ident, rest of body. PIECES: anything else, picked
# from pieces of which number 0 is empty and number 1 the key (without zone).
PLAIN, ZONED, PIECES = range(3)

_FLOW_KEY = (CTA_TUPLE_ORIG, CTA_ZONE)
_EXPECTATION_KEY = (CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_ZONE)

_Pick = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
Layout = tuple[
    Callable[[bytes], tuple[object, ...]],  # reads what decides the shape
    tuple[object, ...],  # what it has to be
    int,  # how to cut
    Callable[[bytes], tuple[bytes, ...]],  # cuts
    tuple[int, int, _Pick],  # PIECES: numbers of zone and ident, picks the body
    int,  # kind
    int,  # mask
]

_Place = tuple[int, int]
_NOWHERE: _Place = (0, 0)


def layouts_of(message: bytes, kind: int) -> list[Layout]:
    """Layouts of all messages with these headers, the most particular first.

    Tried in this order, one that does not ask for a zero only meets messages that
    have none. What does not begin with its key is not learned: no kernel writes that.
    """
    places = {
        attribute: (start, value_end + 3 & ~3)
        for attribute, start, _, value_end in walk(message, FIRST)
    }
    key = _plan(kind, places, frozenset())[0]
    if len(key) > 2 or key[0][1] == FIRST:
        return []
    headers = {
        start: message[start : start + 4] for _, start, _, _ in walk(message, FIRST)
    }
    decisive = _decisive(kind, places)
    layouts = []
    for zeros in chain.from_iterable(
        combinations(decisive, count) for count in range(len(decisive), -1, -1)
    ):
        wanted = headers | {places[zero][0]: ZEROS[zero] for zero in zeros}
        layouts.append(_layout(message, kind, places, wanted, frozenset(zeros)))
    return layouts


def _decisive(kind: int, places: dict[int, _Place]) -> list[int]:
    """Attributes whose value decides the shape, since they may be all zeros."""
    if kind > DUMP:
        return []
    return [
        attribute
        for attribute, zero in ZEROS.items()
        if attribute in places
        and places[attribute][1] - places[attribute][0] == len(zero)
    ]


def _plan(
    kind: int, places: dict[int, _Place], zeros: frozenset[int]
) -> tuple[list[_Place], list[_Place], _Place, int]:
    """Which bytes are key, body and ident, and the mask."""
    is_flow = kind <= DUMP
    order = FLOW_ORDER if is_flow else EXPECTATION_ORDER
    key_order = _FLOW_KEY if is_flow else _EXPECTATION_KEY
    ident = CTA_ID if is_flow else CTA_EXPECT_ID
    key = [(NFGEN, FIRST)]
    key += [places[attribute] for attribute in key_order if attribute in places]
    mask = CANONICAL if kind != UPDATE or not zeros else 0
    body = []
    for attribute in order:
        if attribute in places and (kind == UPDATE or attribute not in zeros):
            body.append(places[attribute])
            mask |= 1 << attribute
    start, end = places.get(ident, (-4, 0))  # _NOWHERE, when 4 is added
    return _joined(key), _joined(body), (start + 4, end), mask


def _joined(places: list[_Place]) -> list[_Place]:
    """The same bytes in fewer pieces."""
    joined: list[_Place] = []
    for start, end in places:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _layout(
    message: bytes,
    kind: int,
    places: dict[int, _Place],
    headers: dict[int, bytes],
    zeros: frozenset[int],
) -> Layout:
    key, body, ident, mask = _plan(kind, places, zeros)
    del headers[FIRST]  # part of the head by which layouts are found
    check = _struct(
        [(start, start + len(value)) for start, value in headers.items()],
        len(message),
        {4: "I", 8: "Q"},
    )
    sample = bytearray(message)
    for start, value in headers.items():
        sample[start : start + len(value)] = value
    wanted = check.unpack(sample)
    pieces = sorted({*key, *body, ident} - {_NOWHERE})
    if len(body) == 2 and pieces == [key[0], body[0], *key[1:], ident, body[1]]:
        way = PLAIN if len(key) == 1 else ZONED
    else:
        way = PIECES
        pieces.insert(0, _NOWHERE)
    zone = key[1] if len(key) > 1 else _NOWHERE
    spots = {place: spot for spot, place in enumerate(pieces)}
    pick: _Pick = itemgetter(0, *(spots[place] for place in body))
    numbers = (spots.get(zone, 0), spots.get(ident, 0), pick)
    cut = _struct(pieces, len(message), {}).unpack
    return (check.unpack, wanted, way, cut, numbers, kind, mask)


def _struct(places: list[_Place], length: int, codes: dict[int, str]) -> Struct:
    """Reads the bytes at some places, given in order, of a message of this length."""
    form = "<"
    position = 0
    for start, end in places:
        size = end - start
        form += f"{start - position}x{codes.get(size, f'{size}s')}"
        position = end
    return Struct(f"{form}{length - position}x")
