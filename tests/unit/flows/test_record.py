"""Recorded messages become the records that an independent decoder sees."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack, unpack_from

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg
from syncd.errors import RecordError
from syncd.flows import record as room
from syncd.flows.nla import attributes, tlv
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    BY_PROGRAM,
    CANONICAL,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_SYNPROXY,
    DUMP,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    EXPECTATION,
    FLOW,
    NEW,
    UPDATE,
    ZEROS,
    Record,
    mask_of,
    master_of,
    merge,
    status_of,
    timeout_of,
    with_zone,
    without_timeout,
)

from tests.unit.flows.recorded import Recorded, recorded, without_portid

KINDS = {
    "NEW": NEW,
    "UPDATE": UPDATE,
    "DESTROY": END,
    "DUMP": DUMP,
    "EXP_NEW": EXP_NEW,
    "EXP_DESTROY": EXP_END,
    "EXP_DUMP": EXP_DUMP,
}
FLOW_BODY = (
    "TUPLE_REPLY STATUS TIMEOUT PROTOINFO HELP LABELS TUPLE_MASTER SEQ_ADJ_ORIG "
    "SEQ_ADJ_REPLY SYNPROXY MARK"
)
EXPECTATION_BODY = "MASTER NAT TIMEOUT FLAGS CLASS HELP_NAME FN"
MARK_0 = ZEROS[CTA_MARK]
IPS_SEQ_ADJUST = 0x40
TCP_FLAG_DATA_UNACKNOWLEDGED = 0x10  # set and cleared without an event

flows = pytest.mark.parametrize(
    "said", [said for said in recorded() if not said.type.startswith("EXP")], ids=str
)
expectations = pytest.mark.parametrize(
    "said", [said for said in recorded() if said.type.startswith("EXP")], ids=str
)
everything = pytest.mark.parametrize("said", recorded(), ids=str)


def read(*messages: bytes) -> list[Record]:
    reader = RecordReader()
    records = reader.read(messages)
    assert (reader.malformed, reader.ignored, reader.echoes) == (0, 0, 0)
    return records


def one(scenario: str, number: int) -> Record:
    return read(recorded(scenario)[number].message)[0]


def changed(message: bytes, old: bytes, new: bytes) -> bytes:
    """The message with some bytes put in for others, with its length put right."""
    assert message.count(old) == 1
    message = message.replace(old, new)
    return pack("<I", len(message)) + message[4:]


# The oracle: pyroute2 for flows (it knows no expectations).


def as_pyroute2_sees(message: bytes) -> list[tuple[str, object]]:
    decoded = nfct_msg(message)
    decoded.decode()
    return [
        (attribute[0].removeprefix("CTA_"), attribute[1])
        for attribute in decoded["attrs"]
    ]


@flows
def test_a_flow_holds_what_pyroute2_decodes(said: Recorded) -> None:
    kind, key, body, ident, mask = read(said.message)[0]
    assert kind == KINDS[said.type]
    attributes_ = key[4:] + body + tlv(12, ident)
    header = pack("<I", 20 + len(attributes_)) + said.message[4:16] + key[:4]
    ours = as_pyroute2_sees(header + attributes_)
    theirs = dict(as_pyroute2_sees(said.message))
    if kind != UPDATE and theirs.get("MARK") == 0:
        del theirs["MARK"]
    synproxy_says_nothing = said.message.count(ZEROS[CTA_SYNPROXY]) == 1
    if kind != UPDATE and synproxy_says_nothing:
        del theirs["SYNPROXY"]
    key_order = [name for name in ("TUPLE_ORIG", "ZONE") if name in theirs]
    body_order = [name for name in FLOW_BODY.split() if name in theirs]
    wanted = [*key_order, *body_order, "ID"]
    assert ours == [(name, theirs[name]) for name in wanted]
    canonical = kind != UPDATE or not (theirs.get("MARK") == 0 or synproxy_says_nothing)
    numbers = [getattr(room, f"CTA_{name}") for name in body_order]
    caused = BY_PROGRAM if kind in (END, UPDATE) and any(said.message[12:16]) else 0
    assert mask == sum(1 << number for number in numbers) | canonical | caused


@dataclass
class Attribute:
    name: str
    whole: bytes


def in_wire_order(said: Recorded) -> Iterator[Attribute]:
    """The attributes, named by the tool that recorded them."""
    place = 20
    for name in said.attributes:
        (length,) = unpack_from("<H", said.message, place)
        end = place + (length + 3) // 4 * 4
        yield Attribute(name, said.message[place:end])
        place = end
    assert place == len(said.message)


@expectations
def test_an_expectation_holds_the_attributes_its_recorder_named(said: Recorded) -> None:
    kind, key, body, ident, mask = read(said.message)[0]
    present = {attribute.name: attribute.whole for attribute in in_wire_order(said)}
    assert kind == KINDS[said.type]
    assert key == said.message[16:20] + present["TUPLE"] + present["MASK"]
    names = [name for name in EXPECTATION_BODY.split() if name in present]
    assert body == b"".join(present[name] for name in names)
    assert ident == present["ID"][4:]
    numbers = [getattr(room, f"CTA_EXPECT_{name}") for name in names]
    assert mask == sum(1 << number for number in numbers) | CANONICAL


@everything
def test_the_key_tells_flows_from_expectations(said: Recorded) -> None:
    key = read(said.message)[0][1]
    assert key[6] == (EXPECTATION if said.type.startswith("EXP") else FLOW)


# Layouts.


@everything
def test_a_known_shape_gives_the_same_record_as_a_walk(said: Recorded) -> None:
    reader = RecordReader(by_layouts=True)
    walked = reader.read_one(said.message)
    plain = without_portid(said.message)
    pair = [walked, reader.read_one(plain)]
    assert reader.read([said.message, plain, said.message, plain]) == pair * 2


def test_shapes_learned_from_all_messages_do_not_disturb_each_other() -> None:
    messages = [said.message for said in recorded()]
    messages += [without_portid(message) for message in messages]
    reader = RecordReader(by_layouts=True)
    walked = [reader.read_one(message) for message in messages]
    assert reader.read(messages) == walked
    assert reader.read(messages[::-1]) == walked[::-1]


@pytest.mark.parametrize("mark", [0, 7])
def test_a_mark_of_zero_and_another_do_not_share_a_layout(mark: int) -> None:
    dumps = (said for said in recorded("tcp4_close") if said.type == "DUMP")
    zero = next(dumps).message
    other = changed(zero, MARK_0, tlv(CTA_MARK, pack(">I", 7)))
    messages = [zero, other] if mark == 0 else [other, zero]
    has_mark = [bool(record[4] >> CTA_MARK & 1) for record in read(*messages * 2)]
    assert has_mark == ([False, True] if mark == 0 else [True, False]) * 2


def test_zero_marks_and_zero_synproxies_combine() -> None:
    base = without_portid(recorded("tcp4_close")[0].message)
    marks = [MARK_0, tlv(CTA_MARK, b"\0\0\0\1")]
    zero = ZEROS[CTA_SYNPROXY]
    synproxies = [zero, zero[:-1] + b"\1"]
    messages = []
    for mark in marks:
        for synproxy in synproxies:
            whole = base + synproxy + mark
            messages.append(pack("<I", len(whole)) + whole[4:])
    for order in (messages, messages[::-1]):
        reader = RecordReader(by_layouts=True)
        walked = [reader.read_one(message) for message in order]
        assert reader.read(order + order) == walked + walked
    sizes = [len(record[2]) for record in read(*messages)]
    assert [size - sizes[0] for size in sizes] == [0, 28, 8, 36]


def test_more_shapes_than_can_be_learned_are_still_read() -> None:
    base = without_portid(recorded("udp4")[0].message)
    messages = []
    for size in range(0, 4 * 700, 4):
        whole = base + tlv(5, bytes(size))
        messages.append(pack("<I", len(whole)) + whole[4:])
    # Many shapes of one length, too.
    for split in range(0, 400, 4):
        whole = base + tlv(100, bytes(split)) + tlv(101, bytes(400 - split))
        messages.append(pack("<I", len(whole)) + whole[4:])
    reader = RecordReader(by_layouts=True)
    walked = [reader.read_one(message) for message in messages]
    assert reader.read(messages) == walked
    assert reader.read(messages) == walked


def test_dumps_of_many_sequences_are_read_alike() -> None:
    dumps = [said.message for said in recorded() if said.type.endswith("DUMP")]
    reader = RecordReader(by_layouts=True)
    walked = [reader.read_one(message) for message in dumps]
    for sequence in range(40):
        again = [m[:8] + pack("<II", sequence, 4242) + m[16:] for m in dumps]
        assert reader.read(again + again) == walked + walked


# Echoes, strangers and garbage.


def test_events_of_our_own_portids_are_left_out_and_counted() -> None:
    event = recorded("udp4")[0].message
    ours = event[:12] + pack("<I", 77) + event[16:]
    theirs = event[:12] + pack("<I", 78) + event[16:]
    reader = RecordReader()
    reader.own_portids.add(77)
    assert len(reader.read([event, ours, theirs, ours])) == 2
    assert reader.echoes == 2


def test_dump_replies_carry_our_portid_and_are_no_echo() -> None:
    said = [said for said in recorded() if said.type in ("DUMP", "EXP_DUMP")]
    reader = RecordReader()
    reader.own_portids |= {unpack_from("<I", one_.message, 12)[0] for one_ in said}
    assert len(reader.read([one_.message for one_ in said] * 2)) == 2 * len(said)
    assert reader.echoes == 0


def test_other_netlink_messages_are_ignored() -> None:
    done = pack("<IHHIII", 20, 3, 2, 77, 4242, 0)
    error = pack("<IHHIIi", 36, 2, 0, 77, 4242, -17) + bytes(16)
    ipset = pack("<IHHII", 20, 0x0600, 0, 0, 0) + bytes(4)
    statistics = pack("<IHHII", 20, 0x0105, 2, 0, 0) + bytes(4)
    reader = RecordReader()
    assert reader.read([done, error, ipset, statistics]) == []
    assert (reader.ignored, reader.malformed) == (4, 0)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 19, 20, 23, 24, 75, 192, 195])
def test_a_message_that_was_cut_short_is_malformed(size: int) -> None:
    message = recorded("tcp4_close")[0].message
    reader = RecordReader()
    assert len(reader.read([message, message[:size], message])) == 2
    assert reader.malformed == 1
    with pytest.raises(RecordError):
        reader.read_one(message[:size])


def test_a_message_longer_than_it_says_is_malformed() -> None:
    message = recorded("tcp4_close")[0].message
    reader = RecordReader()
    assert len(reader.read([message, message + bytes(4), message])) == 2
    assert reader.malformed == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("0800030000000008", "06000300 0000 0000", id="status of 2 bytes"),
        pytest.param("34000280", "34006480", id="no reply tuple"),
        pytest.param("34000180", "34006480", id="no original tuple"),
        pytest.param("0800070000000078", "0800120000000078", id="zone of 4 bytes"),
    ],
)
def test_a_flow_without_what_makes_a_flow_is_malformed(old: str, new: str) -> None:
    message = recorded("tcp4_close")[0].message
    bad = changed(message, bytes.fromhex(old), bytes.fromhex(new))
    reader = RecordReader()
    assert reader.read([message, bad, bad]) == read(message)
    assert reader.malformed == 2


def test_the_order_on_the_wire_does_not_matter() -> None:
    said = recorded("kitchen_sink_ftp4")[0]
    parts = [attribute.whole for attribute in in_wire_order(said)]
    backwards = said.message[:20] + b"".join(parts[::-1])
    assert read(backwards, backwards) == read(said.message) * 2


@pytest.mark.parametrize("by_layouts", [True, False])
@pytest.mark.parametrize("number", [0, 28, 31, 32, 200, 0x3FFF])
def test_an_attribute_of_a_later_kernel_is_in_nobodys_way(
    number: int, by_layouts: bool
) -> None:
    """Not even where it has the number of something else, one bit further."""
    for said in recorded():
        if number == 0 and said.type.startswith("EXP"):
            continue
        known = RecordReader(by_layouts).read_one(said.message)
        for nested in (0, 0x8000):
            more = said.message + tlv(number | nested, b"new")
            message = pack("<I", len(more)) + more[4:]
            reader = RecordReader(by_layouts)
            assert reader.read([message, message, said.message]) == [known] * 3
            assert reader.malformed == 0


def test_a_zero_mark_decides_wherever_it_stands() -> None:
    head = without_portid(recorded("udp4")[0].message)
    marks = [MARK_0, tlv(CTA_MARK, b"\0\0\0\7")]
    first = [head[:20] + mark + head[20:] for mark in marks]
    messages = [pack("<I", len(message)) + message[4:] for message in first]
    assert [len(r[2]) for r in read(*messages, *messages[::-1])] == [68, 76, 76, 68]


# Merging.


def test_a_dump_equals_what_the_events_of_its_flow_add_up_to() -> None:
    compared = 0
    for scenario in sorted({said.scenario for said in recorded()}):
        stored: dict[bytes, tuple[bytes, bytes]] = {}
        for said in recorded(scenario):
            kind, key, body, ident, _ = read(said.message)[0]
            if kind == NEW:
                stored[key] = (ident, body)
            elif kind == UPDATE and key in stored:
                stored[key] = (ident, merge(stored[key][1], body)[0])
            elif kind == DUMP and key in stored:
                assert stored[key][0] == ident
                assert comparable(body) == comparable(stored[key][1])
                compared += 1
    assert compared == 73


def comparable(body: bytes) -> dict[int, bytes]:
    """Without what changes while no event is sent."""
    parts = attributes(without_timeout(body))
    parts.pop(room.CTA_SEQ_ADJ_ORIG, None)
    parts.pop(room.CTA_SEQ_ADJ_REPLY, None)
    parts[room.CTA_STATUS] = pack(">I", status_of(body) & ~IPS_SEQ_ADJUST)
    if len(parts.get(CTA_PROTOINFO, b"")) == 48:
        state = bytearray(parts[CTA_PROTOINFO])
        for place in (36, 44):  # flags, original and reply
            state[place] &= ~TCP_FLAG_DATA_UNACKNOWLEDGED
        parts[CTA_PROTOINFO] = bytes(state)
    return parts


@pytest.mark.parametrize(
    "scenario", sorted({said.scenario for said in recorded()}), ids=str
)
def test_the_mask_test_tells_when_a_merge_may_be_left_out(scenario: str) -> None:
    stored: dict[bytes, tuple[bytes, int]] = {}
    for said in recorded(scenario):
        kind, key, body, _, mask = read(said.message)[0]
        if kind in (NEW, DUMP):
            stored[key] = (body, mask)
        elif kind == UPDATE and key in stored:
            old_body, old_mask = stored[key]
            merged = merge(old_body, body)
            if not old_mask & ~mask:
                assert merged == (body, mask)
            stored[key] = merged


def test_an_update_keeps_what_it_does_not_say() -> None:
    body = tlv(2, b"reply") + tlv(3, b"\0\0\0\2") + tlv(5, b"ftp\0") + tlv(22, b"label")
    update = tlv(2, b"reply") + tlv(3, b"\0\0\0\6")
    merged = (
        tlv(2, b"reply") + tlv(3, b"\0\0\0\6") + tlv(5, b"ftp\0") + tlv(22, b"label")
    )
    assert merge(body, update) == (merged, mask_of(merged))


def test_a_new_attribute_takes_its_canonical_place() -> None:
    body = tlv(2, b"reply") + tlv(8, b"mark")
    update = tlv(2, b"REPLY") + tlv(22, b"label")
    assert merge(body, update)[0] == tlv(2, b"REPLY") + tlv(22, b"label") + body[12:]


def test_a_mark_that_was_set_back_to_zero_is_gone_after_the_merge() -> None:
    records = [one("mark", said.number) for said in recorded("mark")]
    zeroed = next(body for kind, _, body, _, _ in records if body.endswith(MARK_0))
    update = next(record for record in records if record[2] == zeroed)
    assert update[0] == UPDATE
    assert not update[4] & CANONICAL
    stored = tlv(2, b"reply") + tlv(8, b"\0\0\0\7")
    for old in (stored, stored[:12], b""):
        body, mask = merge(old, zeroed)
        assert CTA_MARK not in attributes(body)
        assert mask == mask_of(body)


# Readers of parts.


@flows
def test_status_and_timeout_are_what_pyroute2_decodes(said: Recorded) -> None:
    body = read(said.message)[0][2]
    decoded = dict(as_pyroute2_sees(said.message))
    assert status_of(body) == decoded["STATUS"]
    assert timeout_of(body) == decoded.get("TIMEOUT")


@flows
def test_without_timeout_leaves_all_the_rest(said: Recorded) -> None:
    body = read(said.message)[0][2]
    rest = attributes(body)
    rest.pop(room.CTA_TIMEOUT, None)
    assert attributes(without_timeout(body)) == rest
    assert without_timeout(without_timeout(body)) == without_timeout(body)


def test_status_and_timeout_are_found_at_unusual_places_too() -> None:
    body = tlv(7, b"\0\0\1\0") + tlv(99, b"-") + tlv(3, b"\0\0\0\7")
    assert (status_of(body), timeout_of(body)) == (7, 256)
    assert without_timeout(body) == body[8:]
    assert (status_of(b""), timeout_of(b""), without_timeout(b"")) == (0, None, b"")
    assert (status_of(b"\1"), timeout_of(b"\1")) == (0, None)


def test_the_master_of_an_expectation_is_found_among_the_flows() -> None:
    found = 0
    for scenario in ("ftp4_passive", "ftp4_active_masquerade", "ftp6_passive", "tftp4"):
        records = [read(said.message)[0] for said in recorded(scenario)]
        keys = {record[1] for record in records if record[0] == NEW}
        for kind, _, body, _, _ in records:
            if kind >= EXP_NEW:
                assert master_of(body) in keys
                found += 1
    assert found > 8


def test_a_body_without_master_has_none() -> None:
    with pytest.raises(RecordError):
        master_of(b"")
    with pytest.raises(RecordError):
        master_of(tlv(1, b"")[:4])


def test_with_zone_appends_the_zone_of_the_master() -> None:
    said = next(said for said in recorded("ftp4_zone") if said.type == "EXP_NEW")
    key = read(said.message)[0][1]
    assert with_zone(key, b"\0\7") == key + bytes.fromhex("0600 0700 0007 0000")
    zoned = changed(said.message, key[4:], with_zone(key, b"\0\7")[4:])
    assert read(zoned)[0][1] == with_zone(key, b"\0\7")
