"""Requests against the recorded vectors, and rule by rule."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from syncd.errors import RecordError
from syncd.flows import nla, protoinfo, restore
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_ZONE,
    CTA_HELP,
    CTA_ID,
    CTA_LABELS,
    CTA_MARK,
    CTA_NAT_SRC,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    ZEROS,
    with_zone,
)
from syncd.flows.timers import Timers

_FILE = Path(__file__).parents[2] / "data" / "ctnetlink" / "inject_vectors.jsonl"
_GRE = 47


class Vector(NamedTuple):
    """A recorded record, and the message that re-created it in another kernel."""

    name: str
    key: bytes
    body: bytes
    inject: bytes


def _vectors() -> list[Vector]:
    vectors = []
    for number, line in enumerate(_FILE.read_text().splitlines()):
        vector = json.loads(line)
        inject = bytes.fromhex(vector["inject_hex"])
        source = bytes.fromhex(vector["source_hex"])
        _, key, body, _, _ = RecordReader().read_one(source)
        zone = nla.values(inject, 20).get(CTA_EXPECT_ZONE)
        if zone is not None and vector["kind"] == "expectation":
            key = with_zone(key, zone)
        vectors.append(Vector(f"{number}-{vector['scenario']}", key, body, inject))
    return vectors


VECTORS = _vectors()


def _vector(scenario: str, number: int = 0) -> Vector:
    return [v for v in VECTORS if v.name.split("-", 1)[1] == scenario][number]


def _sent(message: bytes) -> dict[int, bytes]:
    assert int.from_bytes(message[:4], "little") == len(message)
    return nla.attributes(message, 20)


def _status(message: bytes) -> int:
    return int.from_bytes(_sent(message)[CTA_STATUS][4:], "big")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_create_has_the_attributes_that_the_kernel_was_seen_to_accept(
    vector: Vector,
) -> None:
    message = restore.create(vector.key, vector.body, 600, 7)
    sent, expected = _sent(message), nla.attributes(vector.inject, 20)
    if restore.is_expectation(vector.key):
        timer = CTA_EXPECT_TIMEOUT  # The vectors have what was left.
        expected[timer] = sent[timer]
    elif expected.get(CTA_MARK) == ZEROS[CTA_MARK]:
        del expected[CTA_MARK]  # A mark of 0 is not kept.
    if vector.key[36] == _GRE and CTA_TIMEOUT in sent:
        expected[CTA_TIMEOUT] = restore.be32(CTA_TIMEOUT, restore.GRE_TIMEOUT_S)
    if vector.name.endswith("tcp4_syn_unreplied"):  # It lost the client's scale.
        raw = nla.attributes(vector.body)[CTA_PROTOINFO]
        expected[CTA_PROTOINFO] = protoinfo.protoinfo_to_send(raw)
    assert sent == expected
    assert message[16:20] == vector.inject[16:20]


def test_a_create_without_mark_and_zone_is_the_recorded_message_byte_for_byte() -> None:
    for scenario in ("tcp4_close", "tcp6_snat", "udp4", "sctp4", "icmp6_masquerade"):
        vector = _vector(scenario)
        flags, sequence = b"\x01\x06", (7).to_bytes(4, "little")
        length = (len(vector.inject) - 8).to_bytes(4, "little")
        body = vector.inject[16:].replace(ZEROS[CTA_MARK], b"")
        expected = length + b"\0\x01" + flags + sequence + bytes(4) + body
        assert restore.create(vector.key, vector.body, 600, 7) == expected


def test_the_kernel_is_never_told_ids_counters_or_timestamps() -> None:
    forbidden = {9, 10, 11, 12, 17, 19, 20, 27}
    for vector in VECTORS:
        if not restore.is_expectation(vector.key):
            message = restore.create(vector.key, vector.body, 600, 7)
            assert not forbidden & set(_sent(message))


@pytest.mark.parametrize(
    ("state", "flags", "sent"),
    [
        (1, (0x03, 0x00), (0x0B, 0x09)),  # the client alone has spoken
        (1, (0x02, 0x00), (0x0A, 0x08)),  # and wants no scale
        (2, (0x03, 0x02), (0x0B, 0x0A)),  # the server has answered
        (3, (0x23, 0x33), (0x0B, 0x0B)),
        (9, (0x03, 0x03), (0x0B, 0x0B)),
    ],
)
def test_the_scale_of_a_client_without_an_answer_is_one_the_kernel_stores(
    state: int, flags: tuple[int, int], sent: tuple[int, int]
) -> None:
    told = tcp_protoinfo(state, *flags)
    made = protoinfo.protoinfo_to_send(told)
    values = nla.values(nla.values(made, 4)[CTA_PROTOINFO_TCP])
    assert (values[4], values[5]) == tuple(bytes((one, 0x0F)) for one in sent)
    assert made[:32] == told[:32]
    assert protoinfo.protoinfo_to_send(made) == made


def test_a_part_that_the_kernel_refused_is_left_out() -> None:
    vector = _vector("kitchen_sink_ftp4")
    leave_out = 1 << CTA_HELP | 1 << CTA_LABELS
    message = restore.create(vector.key, vector.body, 600, 7, leave_out)
    everything = set(_sent(restore.create(vector.key, vector.body, 600, 7)))
    assert everything - set(_sent(message)) == {CTA_HELP, CTA_LABELS}


def test_an_update_names_neither_nat_nor_master_nor_helper() -> None:
    for vector in VECTORS:
        if restore.is_expectation(vector.key):
            continue
        sent = _sent(restore.update(vector.key, vector.body, 600, 7))
        assert not {CTA_NAT_SRC, 13, CTA_TUPLE_MASTER, CTA_HELP} & set(sent)
        assert CTA_TUPLE_REPLY not in sent


def test_an_update_of_a_related_flow_says_expected_and_a_create_does_not() -> None:
    vector = _vector("ftp4_passive", 1)
    assert _status(restore.update(vector.key, vector.body, 600, 7)) == 0xF
    assert _status(restore.create(vector.key, vector.body, 600, 7)) == 0xE


def test_an_update_never_clears_a_bit_that_the_kernel_has() -> None:
    vector = _vector("udp4_unreplied")
    held = _vector("udp4").body
    assert _status(restore.update(vector.key, vector.body, 600, 7)) == 0x8
    assert _status(restore.update(vector.key, vector.body, 600, 7, held)) == 0xE


def test_an_update_takes_expected_from_the_entry_that_is_there() -> None:
    vector = _vector("ftp4_passive", 1)
    held = _vector("tcp4_close").body
    assert _status(restore.update(vector.key, vector.body, 600, 7, held)) == 0xE


def test_an_update_of_gre_leaves_the_fixed_timer_alone() -> None:
    vector = _vector("gre4_v0")
    assert CTA_TIMEOUT not in _sent(restore.update(vector.key, vector.body, 600, 7))


def test_an_update_takes_back_a_mark_that_the_owner_no_longer_has() -> None:
    vector = _vector("udp4")
    marked = vector.body + restore.be32(CTA_MARK, 5)
    sent = _sent(restore.update(vector.key, vector.body, 600, 7, marked))
    assert sent[CTA_MARK] == ZEROS[CTA_MARK]


def test_a_refresh_is_a_timer_and_nothing_else() -> None:
    vector = _vector("zone")
    sent = _sent(restore.refresh(vector.key, 77, 7))
    assert set(sent) == {CTA_TUPLE_ORIG, CTA_ZONE, CTA_TIMEOUT}
    assert sent[CTA_TIMEOUT] == restore.be32(CTA_TIMEOUT, 77)


def test_a_refresh_of_a_fixed_timer_only_asks_whether_the_flow_is_there() -> None:
    vector = _vector("gre4_v0")
    held = vector.body.replace(
        restore.be32(CTA_STATUS, 0xE), restore.be32(CTA_STATUS, 0x40E)
    )
    assert held != vector.body
    assert set(_sent(restore.refresh(vector.key, 77, 7, held))) == {CTA_TUPLE_ORIG}


def test_a_refresh_has_a_helper_pick_up_the_conversation_where_it_is_now() -> None:
    vector = _vector("ftp4_active_masquerade")
    help_part = nla.attributes(vector.body)[CTA_HELP]
    sent = _sent(restore.refresh(vector.key, 77, 7, vector.body))
    assert sent[CTA_HELP] == help_part
    assert sent[CTA_PROTOINFO] == protoinfo.protoinfo_to_send(
        nla.attributes(vector.body)[CTA_PROTOINFO]
    )
    sent = _sent(restore.update(vector.key, vector.body, 77, 7, vector.body))
    assert sent[CTA_HELP] == help_part


def test_a_flow_without_its_helper_is_another_flow() -> None:
    vector = _vector("ftp4_active_masquerade")
    help_part = nla.attributes(vector.body)[CTA_HELP]
    helpless = vector.body.replace(help_part, b"")
    assert not restore.same_tuples(vector.body, helpless)
    assert restore.same_tuples(helpless, vector.body)
    other = vector.body.replace(help_part, nla.nested(CTA_HELP, nla.tlv(1, b"H.245\0")))
    assert restore.same_tuples(other, helpless)  # no create could attach that one
    longer = nla.nested(CTA_HELP, nla.tlv(1, b"ftp\0"), nla.tlv(2, b"state"))
    with_state = vector.body.replace(help_part, longer)
    assert restore.same_tuples(vector.body, with_state)


def test_deletes_and_lookups_name_the_tuple_and_the_zone() -> None:
    vector = _vector("zone")
    for message in (restore.delete(vector.key, 7), restore.lookup(vector.key, 7)):
        assert set(_sent(message)) == {CTA_TUPLE_ORIG, CTA_ZONE}
    exact = _sent(restore.delete(vector.key, 7, b"\1\2\3\4"))
    assert exact[CTA_ID][4:] == b"\1\2\3\4"
    by_reply = restore.delete_reply(vector.key, vector.body, 7)
    assert set(_sent(by_reply)) == {CTA_TUPLE_REPLY, CTA_ZONE}


@pytest.mark.parametrize(
    "key", [b"", b"\x02\0\0\0", b"\x02\0\0\0\x08\0\x12\0\0\x07\0\0"]
)
def test_a_delete_without_a_tuple_is_refused_since_it_would_flush(key: bytes) -> None:
    with pytest.raises(RecordError):
        restore.delete(key, 7)


def test_a_body_that_would_misalign_the_batch_is_refused() -> None:
    vector = _vector("udp4")
    with pytest.raises(RecordError):
        restore.create(vector.key, vector.body + b"\0", 600, 7)
    with pytest.raises(RecordError):
        restore.create(vector.key + b"\0", vector.body, 600, 7)


@pytest.mark.parametrize(
    ("stored_s", "elapsed_s", "expected_s"),
    [
        (432_000, 10.9, 431_990),
        (100, 40.0, 60),
        (100, 90.0, 60),
        (30, 5.0, 30),
        (0, 5.0, 1),
        (None, 5.0, restore.OFFLOADED_TIMEOUT_S),
    ],
)
def test_a_flow_that_its_owner_has_not_ended_keeps_a_minute_or_its_whole_timeout(
    stored_s: int | None, elapsed_s: float, expected_s: int
) -> None:
    assert restore.remaining_s(stored_s, elapsed_s) == expected_s


_SILENT, _IN_FLIGHT = 300, 432_000


@pytest.mark.parametrize(
    ("stored_s", "elapsed_s", "doubted_s", "expected_s"),
    [
        (300, 0.5, _IN_FLIGHT, 432_000),
        (300, 400.0, _IN_FLIGHT, 431_600),
        (500, 10.0, _IN_FLIGHT, 431_990),
        (500_000, 10.0, _IN_FLIGHT, 499_990),
        (300, 10.0, _SILENT, 431_990),
        (301, 10.0, _SILENT, 291),
        (1000, 500.0, _SILENT, 500),
        (1000, 501.0, _SILENT, 1000),
        (432_000, 216_000.9, _SILENT, 216_000),
        (432_000, 216_001.0, _SILENT, 432_000),
        (None, 5.0, _IN_FLIGHT, restore.OFFLOADED_TIMEOUT_S),
    ],
)
def test_an_established_connection_has_its_long_timer_or_half_of_it_at_least(
    stored_s: int | None, elapsed_s: float, doubted_s: int, expected_s: int
) -> None:
    assert restore.remaining_s(stored_s, elapsed_s, doubted_s) == expected_s


@pytest.mark.parametrize("stored_s", [1, 59, 60, 100, 301, 432_000, 500_000])
@pytest.mark.parametrize("elapsed_s", [0.0, 0.9, 45.0, 400.0, 300_000.0])
@pytest.mark.parametrize("doubted_s", [_SILENT, _IN_FLIGHT])
def test_an_established_connection_is_granted_no_less_than_another_flow(
    stored_s: int, elapsed_s: float, doubted_s: int
) -> None:
    least_s = restore.remaining_s(stored_s, elapsed_s)
    assert restore.remaining_s(stored_s, elapsed_s, doubted_s) >= least_s


def tcp_protoinfo(state: int, original: int, reply: int) -> bytes:
    """A PROTOINFO as the kernel writes it, with these flags."""
    scales = nla.tlv(2, b"\7"), nla.tlv(3, b"\7")
    flags = nla.tlv(4, bytes((original, 0))), nla.tlv(5, bytes((reply, 0)))
    tcp = nla.nested(1, nla.tlv(1, bytes((state,))), *scales, *flags)
    return nla.nested(CTA_PROTOINFO, tcp)


def test_short_timers_are_doubted_of_established_connections_only() -> None:
    assert protoinfo.doubted_s(tcp_protoinfo(3, 0x23, 0x23)) == _SILENT
    assert protoinfo.doubted_s(tcp_protoinfo(3, 0x33, 0x23)) == _IN_FLIGHT
    assert protoinfo.doubted_s(tcp_protoinfo(3, 0x23, 0x33)) == _IN_FLIGHT
    for state in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        assert protoinfo.doubted_s(tcp_protoinfo(state, 0x33, 0x33)) == 0
    sctp = nla.nested(CTA_PROTOINFO, nla.nested(3, nla.tlv(1, b"\3")))
    assert protoinfo.doubted_s(sctp) == 0


def test_what_is_granted_is_what_this_kernel_gives() -> None:
    timers = Timers.read({"nf_conntrack_tcp_timeout_established": 600}.get)
    assert timers == Timers(established_s=600)
    silent, in_flight = tcp_protoinfo(3, 0x23, 0x23), tcp_protoinfo(3, 0x33, 0x23)
    assert protoinfo.doubted_s(silent, timers) == 300
    assert protoinfo.doubted_s(in_flight, timers) == 600
    for elapsed_s, expected_s in ((10.0, 590), (400.0, 600)):
        assert restore.remaining_s(300, elapsed_s, 300, 600) == expected_s
    short = Timers(established_s=200, unacknowledged_s=100, retransmitted_s=150)
    assert protoinfo.doubted_s(in_flight, short) == 200
    assert protoinfo.doubted_s(silent, short) == 150
    shortest = Timers(established_s=200)
    assert restore.remaining_s(300, 10.0, protoinfo.doubted_s(silent, shortest), 200)


def test_the_estimate_finds_the_state_of_a_flow_and_none_in_an_expectation() -> None:
    vector = _vector("tcp4_close")
    head = vector.body[: vector.body[0] + 8] + restore.be32(CTA_TIMEOUT, 300)
    assert restore.estimate_s(vector.key, head, 10.0) == 290
    silent = head + tcp_protoinfo(3, 0x23, 0x23)
    assert restore.estimate_s(vector.key, silent, 10.0) == 431_990
    closing = head + tcp_protoinfo(7, 0x33, 0x33)
    assert restore.estimate_s(vector.key, closing, 10.0) == 290
    for other in VECTORS:
        if restore.is_expectation(other.key):
            stored_s = restore.stored_timeout_s(other.key, other.body)
            expected_s = restore.remaining_s(stored_s, 1.0)
            assert restore.estimate_s(other.key, other.body, 1.0) == expected_s


def test_a_replaced_reply_tuple_or_a_missing_translation_is_another_flow() -> None:
    plain, translated = _vector("tcp4_close"), _vector("tcp4_masquerade")
    assert restore.same_tuples(plain.body, plain.body)
    assert not restore.same_tuples(plain.body, translated.body)
    untranslated = translated.body.replace(
        restore.be32(CTA_STATUS, 0x19E), restore.be32(CTA_STATUS, 0xE)
    )
    assert not restore.same_tuples(translated.body, untranslated)


def test_gre_whose_source_has_another_key_only_is_the_same_without_its_bit() -> None:
    vector = _vector("gre4_masquerade")
    status = nla.attributes(vector.body)[CTA_STATUS]
    both, one, none = (
        vector.body.replace(status, restore.be32(CTA_STATUS, number))
        for number in (0x1BF, 0x5AF, 0x18F)
    )
    assert restore.same_tuples(both, one)
    assert not restore.same_tuples(both, none)


def test_a_scale_that_is_not_used_cannot_be_taken_back() -> None:
    vector = _vector("tcp4_close")
    head = vector.body[: vector.body[0] + 16]
    unused = nla.nested(1, *(nla.tlv(n, b"\0") for n in (2, 3)))
    scaled = head + tcp_protoinfo(1, 0x03, 0x00)
    plain = head + nla.nested(CTA_PROTOINFO, unused)
    assert not restore.same_tuples(plain, scaled)
    assert restore.same_tuples(scaled, plain)
    assert restore.same_tuples(plain, plain)
    assert restore.same_tuples(scaled, scaled)


def test_content_is_the_same_whatever_the_timer_and_the_tcp_flags_of_no_use() -> None:
    vector = _vector("tcp4_close")
    raw = nla.attributes(vector.body)[CTA_PROTOINFO]
    injected = vector.body.replace(raw, protoinfo.protoinfo_to_send(raw))
    timer = nla.attributes(vector.body)[CTA_TIMEOUT]
    injected = injected.replace(timer, restore.be32(CTA_TIMEOUT, 1))
    assert restore.same_content(vector.body, injected)
    assert not restore.same_content(vector.body, _vector("tcp4_reset").body)
