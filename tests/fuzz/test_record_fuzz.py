"""Garbage in: a RecordError or a record comes out, nothing else, and always the same.

The same means: a reader that has learned its layouts from real messages reads a
mutated one exactly as a walk does.
"""

from ipaddress import ip_network
from struct import pack

from hypothesis import example, given
from hypothesis import strategies as st
from syncd.config_filter import Choice, FilterConfig
from syncd.errors import RecordError
from syncd.flows.filter import RecordFilter
from syncd.flows.nla import attributes, values, walk
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    BY_PROGRAM,
    CANONICAL,
    EXPECTATION,
    Record,
    mask_of,
    master_of,
    merge,
    status_of,
    timeout_of,
    without_timeout,
)

from tests.unit.flows.recorded import recorded, without_portid

MESSAGES = [said.message for said in recorded()]
ENDED = next(said.message for said in recorded() if said.type == "DESTROY")
MESSAGES += [without_portid(message) for message in MESSAGES]
FILTER = RecordFilter(
    FilterConfig(
        protocols=Choice(accept=(6, 17)),
        addresses=Choice(ignore=(ip_network("10.9.0.0/16"), ip_network("fd09::/16"))),
        tcp_states=Choice(ignore=(1,)),
    ),
    ("ftp", "sip"),
)
LEARNED = RecordReader(by_layouts=True)
LEARNED.read(MESSAGES)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A recorded message with a few bytes changed, added or taken away."""
    message = bytearray(draw(st.sampled_from(MESSAGES)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(message) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0:
                message[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:  # whole words, as a value or a header may change
                place &= ~3
                message[place : place + 4] = draw(st.binary(min_size=4, max_size=4))
            case 2:
                place &= ~3
                message[place : place + 4] = bytes(4)
            case 3:
                del message[place & ~3 : (place & ~3) + 4 * draw(st.integers(1, 8))]
            case _:
                message[place & ~3 : place & ~3] = draw(st.binary(max_size=16))
    if draw(st.booleans()) and len(message) >= 4:
        message[:4] = pack("<I", len(message))
    return bytes(message)


messages = st.one_of(
    mutated(),
    st.binary(max_size=128),
    st.binary(max_size=128).map(
        lambda tail: (
            pack("<IHHII", 20 + len(tail), 0x0100, 0, 0, 0) + b"\2\0\0\0" + tail
        )
    ),
)


def by_walk(message: bytes) -> list[Record]:
    try:
        return [RecordReader().read_one(message)]
    except RecordError:
        return []


@example(ENDED[:8] + bytes.fromhex("01000000 00000000") + ENDED[16:])
@given(messages)
def test_a_message_is_read_alike_by_layouts_and_by_a_walk(message: bytes) -> None:
    walked = by_walk(message)
    assert RecordReader(by_layouts=False).read([message]) == walked
    fresh = RecordReader(by_layouts=True)
    assert fresh.read([message]) == walked
    assert fresh.read([message]) == walked
    before = LEARNED.malformed + LEARNED.ignored
    assert LEARNED.read([message, MESSAGES[0]]) == walked + by_walk(MESSAGES[0])
    assert LEARNED.malformed + LEARNED.ignored - before == 1 - len(walked)


@given(st.lists(messages, max_size=40))
def test_a_bad_message_does_not_disturb_its_neighbours(batch: list[bytes]) -> None:
    walked = [record for message in batch for record in by_walk(message)]
    for by_layouts in (False, True):
        assert RecordReader(by_layouts).read(batch) == walked


@given(messages)
def test_whatever_became_a_record_can_be_asked(message: bytes) -> None:
    for kind, key, body, ident, mask in by_walk(message):
        assert 0 <= kind <= 6
        assert len(ident) in (0, 4)
        assert (mask | CANONICAL) & ~BY_PROGRAM == mask_of(body)
        assert FILTER.accepts(key, body) in (True, False)
        if key[6] == EXPECTATION:
            assert master_or_error(body)
        else:
            assert 0 <= status_of(body) < 1 << 32
            timeout_of(body)
            rest = without_timeout(body)
            assert timeout_of(rest) is None
            merged, merged_mask = merge(body, body)
            assert merge(merged, merged) == (merged, merged_mask)


def master_or_error(body: bytes) -> bytes:
    try:
        return master_of(body)
    except RecordError:
        return b"none"


@given(st.one_of(st.binary(max_size=64), mutated().map(lambda m: m[20:])))
def test_parts_of_garbage_are_values_or_a_record_error(body: bytes) -> None:
    for ask in (status_of, timeout_of, without_timeout, master_of):
        try:
            ask(body)
        except RecordError:
            continue
    try:
        merge(body, body)
        walked = list(walk(body))
    except RecordError:
        return
    assert attributes(body).keys() == values(body).keys()
    assert attributes(body).keys() == {kind for kind, *_ in walked}
