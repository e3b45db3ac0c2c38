"""The hot path says the same as `restore`, flow by flow."""

import pytest
from syncd.flows import nla, protoinfo, restore
from syncd.flows.batch import Restorer
from syncd.flows.record import (
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_STATE,
    CTA_STATUS,
    CTA_TIMEOUT,
)
from syncd.flows.timers import Timers

from tests.unit.flows.test_restore import VECTORS, Vector, tcp_protoinfo

FLOWS = [vector for vector in VECTORS if not restore.is_expectation(vector.key)]


def _sent(message: bytes) -> dict[int, bytes]:
    assert int.from_bytes(message[:4], "little") == len(message)
    return nla.attributes(message, 20)


def _with_status(vector: Vector, status: int) -> bytes:
    old = nla.attributes(vector.body)[CTA_STATUS]
    return vector.body.replace(old, restore.be32(CTA_STATUS, status))


def _flow(scenario: str) -> Vector:
    return next(v for v in FLOWS if v.name.split("-", 1)[1] == scenario)


@pytest.mark.parametrize("vector", FLOWS, ids=lambda vector: vector.name)
def test_a_layout_says_the_same_when_it_is_new_and_when_it_is_known(
    vector: Vector,
) -> None:
    record = (vector.key, vector.body, 0.0)
    first, second = Restorer(600).creates([record, record], 0x01020304)
    expected = restore.create(vector.key, vector.body, 600, 0x01020304)
    assert first == expected
    assert second[8:12] == b"\x05\x03\x02\x01"
    assert second[:8] + second[12:16] == first[:8] + first[12:16]
    assert _sent(second) == _sent(first)


def test_all_flows_in_one_batch_say_what_each_says_alone() -> None:
    restorer = Restorer(600)
    records = [(vector.key, vector.body, 0.0) for vector in FLOWS]
    restorer.creates(records, 1)
    for number, message in enumerate(restorer.creates(records, 1)):
        key, body, _ = records[number]
        assert _sent(message) == _sent(restore.create(key, body, 600, number + 1))


@pytest.mark.parametrize("elapsed_s", [0.0, 3.5, 100.0, 430_000.0, 900_000.0])
def test_known_layouts_get_the_same_estimate_of_their_timers(elapsed_s: float) -> None:
    for vector in FLOWS:
        restorer = Restorer()
        record = (vector.key, vector.body, elapsed_s)
        new, known = restorer.creates([record, record], 1)
        assert _sent(new)[CTA_TIMEOUT] == _sent(known)[CTA_TIMEOUT]


@pytest.mark.parametrize("elapsed_s", [0.0, 59.6, 100.0, 216_000.0, 216_001.0])
@pytest.mark.parametrize("stored_s", [30, 119, 120, 300, 301, 5000, 432_000, 500_000])
@pytest.mark.parametrize(
    "told",
    [
        tcp_protoinfo(3, 0x23, 0x23),
        tcp_protoinfo(3, 0x23, 0x33),
        tcp_protoinfo(4, 0x33, 0x33),
    ],
)
def test_creates_refreshes_and_updates_estimate_as_restore_does(
    told: bytes, stored_s: int, elapsed_s: float
) -> None:
    flow = _flow("tcp4_close")
    reply = flow.body[0]
    timeout = restore.be32(CTA_TIMEOUT, stored_s)
    body = flow.body[: reply + 8] + timeout + told
    for rest in (b"", restore.be32(CTA_MARK, 0x180)):
        record = (flow.key, body + rest, elapsed_s)
        expected_s = restore.estimate_s(*record)
        expected = restore.be32(CTA_TIMEOUT, expected_s)
        restorer = Restorer()
        for _ in range(2):  # Refreshes come first: nothing is known to them.
            (refresh,) = restorer.refreshes([record], [record[1]], 1)
            assert _sent(refresh)[CTA_TIMEOUT] == expected
        other = flow.body[:reply] + restore.be32(CTA_STATUS, 8) + body[reply + 8 :]
        assert restorer.refreshes([record], [other + rest], 1) == [b""]
        (update,) = restorer.updates([record], [other + rest], 1)
        (create,) = restorer.creates([record], 1)
        assert _sent(update)[CTA_TIMEOUT] == _sent(create)[CTA_TIMEOUT] == expected


def test_what_is_malformed_has_an_empty_message_and_harms_no_other() -> None:
    good = FLOWS[0]
    record = (good.key, good.body, 0.0)
    bad = [
        (good.key, b"", 0.0),
        (b"", good.body, 0.0),
        (good.key, good.body[:20], 0.0),
        (good.key, good.body + b"\0", 0.0),
        (good.key, good.body + bytes(4), 0.0),
    ]
    messages = Restorer().creates([record, *bad, record], 1)
    assert [bool(message) for message in messages] == [True, *[False] * 5, True]


def test_known_values_do_not_let_a_misaligned_message_through() -> None:
    tcp = _flow("tcp4_close")
    restorer = Restorer()
    restorer.creates([(tcp.key, tcp.body, 0.0)], 1)
    for key, body in ((tcp.key + b"\0", tcp.body), (tcp.key, tcp.body + b"\0")):
        assert restorer.creates([(key, body, 0.0)], 1) == [b""]


def test_a_short_key_of_a_translated_flow_is_no_flow() -> None:
    nat = _flow("tcp4_masquerade")
    restorer = Restorer()
    restorer.creates([(nat.key, nat.body, 0.0)], 1)
    assert restorer.creates([(nat.key[:20], nat.body, 0.0)], 1) == [b""]


def test_a_flow_that_the_kernel_holds_alike_only_gets_its_timer() -> None:
    for vector in FLOWS:
        restorer = Restorer(600)
        raw = nla.attributes(vector.body).get(CTA_PROTOINFO, b"")
        sent = protoinfo.protoinfo_to_send(raw) if raw else b""
        held = vector.body.replace(raw, sent) if raw else vector.body
        record = (vector.key, vector.body, 0.0)
        expected = restore.refresh(vector.key, 600, 1, held)
        for _ in range(2):
            assert restorer.refreshes([record], [held], 1) == [expected]


def test_a_connection_that_went_another_way_meanwhile_is_taken_as_it_comes() -> None:
    vector = _flow("tcp4_close")
    raw = nla.attributes(vector.body)[CTA_PROTOINFO]
    assert not protoinfo.is_lenient(raw)
    for rare in (True, False):
        restorer = Restorer(600)
        record = (vector.key, vector.body, 0.0)
        if not rare:
            restorer.refreshes([record], [vector.body], 1)
        (message,) = restorer.refreshes([record], [vector.body], 1)
        assert message == restore.refresh(vector.key, 600, 1, vector.body)
        assert protoinfo.protoinfo_to_send(raw) in message


def test_a_flow_that_the_kernel_holds_with_more_bits_is_alike() -> None:
    vector = _flow("udp4")
    fewer = _with_status(vector, 0xA)
    restorer = Restorer(600)
    for _ in range(2):
        record = (vector.key, fewer, 0.0)
        assert restorer.refreshes([record], [vector.body], 1) != [b""]
        record = (vector.key, vector.body, 0.0)
        assert restorer.refreshes([record], [fewer], 1) == [b""]


@pytest.mark.parametrize("scenario", ["tcp4_close", "tcp6_close", "udp4", "udp6"])
def test_a_plain_update_is_that_of_restore(scenario: str) -> None:
    vector = _flow(scenario)
    held = _with_status(vector, 0x8)
    restorer = Restorer(600)
    record = (vector.key, vector.body, 0.0)
    assert restorer.refreshes([record], [held], 1) == [b""]
    expected = restore.update(vector.key, vector.body, 600, 1, held)
    assert restorer.updates([record], [held], 1) == [expected]


def test_a_plain_update_sets_and_clears_marks_as_restore_does() -> None:
    vector = _flow("tcp4_close")
    marked = vector.body + restore.be32(CTA_MARK, 5)
    restorer = Restorer(600)
    for body, held in ((vector.body, marked), (marked, vector.body)):
        record = (vector.key, body, 0.0)
        assert restorer.refreshes([record], [held], 1) == [b""]
        expected = restore.update(vector.key, body, 600, 1, held)
        assert restorer.updates([record], [held], 1) == [expected]
        assert restore.be32(CTA_MARK, 5 if body is marked else 0) in expected


def test_an_update_that_must_move_a_tuple_is_not_plain() -> None:
    tcp, nat = _flow("tcp4_close"), _flow("tcp4_masquerade")
    restorer = Restorer(600)
    unlike = [(tcp, nat.body), (nat, _with_status(nat, 0xE))]
    for vector, held in unlike:
        record = (vector.key, vector.body, 0.0)
        assert restorer.refreshes([record], [held], 1) == [b""]
        assert restorer.updates([record], [held], 1) == [b""]


@pytest.mark.parametrize(
    "timers", [Timers(600), Timers(200), Timers(3600, 1200, 60), Timers(stream_s=30)]
)
def test_other_timers_are_the_same_in_both_ways(timers: Timers) -> None:
    for vector in FLOWS:
        at = vector.body[0] | vector.body[1] << 8
        if vector.body[at + 8 : at + 12] != b"\x08\0\x07\0":
            continue
        for seconds in (7, 150, 250, 300, 599, 3600, 432_000):
            timer = seconds.to_bytes(4)
            body = vector.body[: at + 12] + timer + vector.body[at + 16 :]
            for elapsed_s in (0.5, 100.0, 250.0, 5000.0):
                record = (vector.key, body, elapsed_s)
                restorer = Restorer(timers=timers)
                first, second = restorer.creates([record, record], 1)
                timeout_s = restore.estimate_s(*record, timers)
                assert first == restore.create(vector.key, body, timeout_s, 1)
                assert second == restore.create(vector.key, body, timeout_s, 2)


@pytest.mark.parametrize(("scenario", "seconds"), [("tcp", 600), ("udp", 77)])
def test_a_flow_in_a_flow_table_gets_the_timer_that_follows(
    scenario: str, seconds: int
) -> None:
    timers = Timers(established_s=600, stream_s=77)
    vector = next(v for v in FLOWS if scenario in v.name)
    body = _with_status(vector, 0xC00E)
    message, again = Restorer(timers=timers).creates([(vector.key, body, 5.0)] * 2, 1)
    assert message[16:] == again[16:]
    parts = nla.attributes(message, 20)
    assert parts[CTA_TIMEOUT][4:] == seconds.to_bytes(4, "big")
    assert not int.from_bytes(parts[CTA_STATUS][4:], "big") & 0xC000


def test_one_that_nobody_told_of_before_is_established() -> None:
    vector = next(v for v in FLOWS if "tcp" in v.name)
    at = vector.body[0] | vector.body[1] << 8
    body = _with_status(vector, 0x400E)[: at + 8]
    message = Restorer().creates([(vector.key, body, 5.0)], 1)[0]
    parts = nla.attributes(message, 20)
    assert parts[CTA_TIMEOUT][4:] == (432_000).to_bytes(4, "big")
    tcp = nla.attributes(parts[CTA_PROTOINFO], 8)
    assert tcp[CTA_PROTOINFO_TCP_STATE][4] == 3
    assert tcp[CTA_PROTOINFO_TCP_FLAGS_ORIGINAL][4:6] == b"\x08\x0f"
