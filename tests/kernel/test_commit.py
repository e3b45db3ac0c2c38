"""Commits into a real kernel: what was recorded elsewhere lives on here."""

import asyncio
from collections.abc import Iterable, Mapping

import pytest
from syncd.flows import nla, protoinfo, restore
from syncd.flows.batch import TimedRecord
from syncd.flows.commit import TABLE_FULL, CommitPlan, Result
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CTA_EXPECT_TIMEOUT,
    CTA_LABELS,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP_STATE,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_REPLY,
)
from syncd.flows.timers import Timers
from syncd.kernel.requests import RequestSocket, carry_out

from tests.lab import Lab, inside, sysctl
from tests.unit.flows.test_restore import VECTORS, Vector

pytestmark = pytest.mark.kernel

_RULES = """
table ip nat { chain post { type nat hook postrouting priority 100; }; }
table ip6 nat { chain post { type nat hook postrouting priority 100; }; }
table inet marks { chain never { ct label set 1; }; }
"""
_NULL_BINDING, _FIXED_TIMEOUT = 0x180, 0x400


@pytest.fixture
def requests(lab: Lab) -> Iterable[RequestSocket]:
    """A socket in a namespace that tracks, translates, and uses labels."""
    namespace = lab.namespace("commit", tracking=True)
    lab.rules(namespace, _RULES)
    sysctl(namespace, "net.netfilter.nf_conntrack_events", 1)
    with inside(namespace):
        made = RequestSocket()
    yield made
    made.close()


def _commit(
    requests: RequestSocket,
    records: Iterable[TimedRecord],
    held: Mapping[bytes, bytes] | None = None,
    masks: Masks = WHOLE,
) -> Result:
    plan = CommitPlan(records, held or {}, timeout_s=600, masks=masks)
    asyncio.run(carry_out(plan, requests))
    return plan.result


def _dump(requests: RequestSocket) -> dict[bytes, bytes]:
    return asyncio.run(_read(requests))


async def _read(requests: RequestSocket) -> dict[bytes, bytes]:
    found, reader = dict[bytes, bytes](), RecordReader()
    for kind in ("flows", "expectations"):
        async for messages in requests.dump(kind):
            found |= {key: body for _, key, body, _, _ in reader.read(messages)}
    return found


def _vector(scenario: str, number: int = 0) -> Vector:
    return [v for v in VECTORS if v.name.split("-", 1)[1] == scenario][number]


def _record(vector: Vector) -> TimedRecord:
    return vector.key, vector.body, 0.0


def _comparable(key: bytes, body: bytes) -> dict[int, bytes | int]:
    """What must be alike in source and copy; the vectors' README lists the rest."""
    attributes: dict[int, bytes | int] = dict(nla.attributes(body))
    attributes.pop(CTA_SYNPROXY, None)
    if restore.is_expectation(key):
        attributes.pop(CTA_EXPECT_TIMEOUT)
        return attributes
    attributes.pop(CTA_TIMEOUT)
    status = restore.status_word(nla.attributes(body))
    if not status & restore.NAT_BITS:
        status &= ~_NULL_BINDING
    attributes[CTA_STATUS] = status & ~_FIXED_TIMEOUT
    raw = nla.attributes(body).get(CTA_PROTOINFO)
    if raw is not None:
        attributes[CTA_PROTOINFO] = _as_stored(protoinfo.protoinfo_to_send(raw))
    return attributes


def _as_stored(protoinfo: bytes) -> bytes:
    """The kernel takes window scales only when both ends have announced theirs."""
    is_tcp = protoinfo[6] == 1
    if is_tcp and not protoinfo[36] & protoinfo[44] & 1:
        return protoinfo[:20] + b"\0" + protoinfo[21:28] + b"\0" + protoinfo[29:]
    return protoinfo


def _zoneless(key: bytes) -> bytes:
    """An expectation as a dump names it, without the zone."""
    if not restore.is_expectation(key):
        return key
    return key[:4] + b"".join(
        tlv for kind, tlv in nla.attributes(key, 4).items() if kind != 7
    )


def test_every_recorded_flow_and_expectation_comes_back_as_it_was(
    requests: RequestSocket,
) -> None:
    scenarios = sorted({vector.name.split("-", 1)[1] for vector in VECTORS})
    for scenario in scenarios:
        vectors = [v for v in VECTORS if v.name.split("-", 1)[1] == scenario]
        result = _commit(requests, map(_record, reversed(vectors)))
        assert (result.created, result.failed) == (len(vectors), {}), scenario
        found = _dump(requests)
        for vector in vectors:
            key = _zoneless(vector.key)
            assert _comparable(key, found[key]) == _comparable(key, vector.body), (
                vector.name
            )
        requests.send([restore.delete(v.key, 1) for v in vectors])


def test_a_second_commit_changes_nothing(requests: RequestSocket) -> None:
    records = [_record(_vector(name)) for name in ("tcp4_close", "udp6", "tcp6_snat")]
    assert _commit(requests, records).created == 3
    before = _dump(requests)
    assert _commit(requests, records, before).unchanged == 3
    assert _commit(requests, records).unchanged == 3
    after = _dump(requests)
    assert after.keys() == before.keys()
    for key, body in after.items():
        assert _comparable(key, body) == _comparable(key, before[key])


def test_a_commit_onto_an_older_state_brings_it_up_to_date(
    requests: RequestSocket,
) -> None:
    key, body, _ = _record(_vector("tcp4_close"))
    older = body.replace(
        bytes.fromhex("0500010007000000"), bytes.fromhex("0500010003000000")
    )
    assert _commit(requests, [(key, older, 0.0)]).created == 1
    assert _commit(requests, [(key, body, 0.0)], _dump(requests)).updated == 1
    assert _comparable(key, _dump(requests)[key]) == _comparable(key, body)


def test_an_untranslated_entry_of_the_same_tuple_is_replaced(
    requests: RequestSocket,
) -> None:
    nat = _vector("tcp4_masquerade")
    attributes = nla.attributes(nat.body)
    swapped, _ = restore.untranslate(nat.key, attributes[CTA_TUPLE_REPLY], 0x10)
    plain = swapped + nat.body[52:].replace(
        attributes[CTA_STATUS], restore.be32(CTA_STATUS, 0xE)
    )
    for known in (True, False):
        _commit(requests, [(nat.key, plain, 0.0)])
        there = _dump(requests)
        result = _commit(requests, [_record(nat)], there if known else {})
        assert (result.updated, result.failed) == (1, {})
        found = _dump(requests)[nat.key]
        assert _comparable(nat.key, found) == _comparable(nat.key, nat.body)
        requests.send([restore.delete(nat.key, 1)])


def test_an_entry_that_holds_the_translated_reply_tuple_makes_room(
    requests: RequestSocket,
) -> None:
    nat = _vector("tcp4_masquerade")
    reply = nla.attributes(nat.body)[CTA_TUPLE_REPLY]
    port = (int.from_bytes(nat.key[44:46], "big") ^ 1).to_bytes(2, "big")
    other = nat.key[:44] + port + nat.key[46:]
    assert _commit(requests, [(other, nat.body, 0.0)]).created == 1
    result = _commit(requests, [_record(nat)])
    assert (result.created, result.failed) == (1, {})
    found = _dump(requests)
    assert set(found) == {nat.key}
    assert nla.attributes(found[nat.key])[CTA_TUPLE_REPLY] == reply


def test_an_entry_in_the_other_direction_is_replaced(requests: RequestSocket) -> None:
    key, body, _ = _record(_vector("udp4"))
    reply, orig = nla.attributes(body)[CTA_TUPLE_REPLY], key[4:]
    turned_key = key[:4] + reply[:2] + b"\x01\x80" + reply[4:]
    turned = orig[:2] + b"\x02\x80" + orig[4:] + body[52:]
    assert _commit(requests, [(turned_key, turned, 0.0)]).created == 1
    result = _commit(requests, [(key, body, 0.0)])
    assert (result.updated, result.failed) == (1, {})
    assert set(_dump(requests)) == {key}


def test_a_related_flow_without_its_master_lives_on_as_an_ordinary_one(
    requests: RequestSocket,
) -> None:
    related = _vector("ftp4_passive", 1)
    result = _commit(requests, [_record(related)])
    assert (result.created, result.failed) == (1, {})
    assert CTA_TUPLE_MASTER not in nla.attributes(_dump(requests)[related.key])
    again = _commit(requests, [_record(related)], _dump(requests))
    assert (again.created, again.failed) == (0, {})


def test_labels_are_left_out_where_no_rule_uses_them(lab: Lab) -> None:
    namespace = lab.namespace("plain", tracking=True)
    with inside(namespace):
        requests = RequestSocket()
    record = _record(_vector("labels"))
    try:
        assert _commit(requests, [record]).created == 1
        held = _dump(requests)
        result = _commit(requests, [record], held)
        assert (result.updated, result.failed) == (1, {})
        assert CTA_LABELS not in nla.attributes(held[record[0]])
    finally:
        requests.close()


def _marked(mark: int, labels: int) -> TimedRecord:
    key, body, _ = _record(_vector("tcp4_close"))
    if labels:
        body += nla.tlv(CTA_LABELS, labels.to_bytes(16, "little"))
    return key, body + (restore.be32(CTA_MARK, mark) if mark else b""), 0.0


def _bits(requests: RequestSocket, key: bytes) -> tuple[int, int]:
    values = nla.values(_dump(requests)[key])
    return (
        int.from_bytes(values.get(CTA_MARK, b""), "big"),
        int.from_bytes(values.get(CTA_LABELS, b""), "little"),
    )


@pytest.mark.parametrize("known", [True, False])
def test_marks_and_labels_become_those_of_the_owner(
    requests: RequestSocket, known: bool
) -> None:
    """Whatever a stale entry has, and also if the owner has none any more."""
    for bits in ((7, 1), (0, 1 << 127), (0xFFFFFFFF, 6), (0, 0), (0, 3), (1, 0)):
        record = _marked(*bits)
        held = _dump(requests) if known else {}
        result = _commit(requests, [record], held)
        assert (result.failures, _bits(requests, record[0])) == (0, bits)
        again = _commit(requests, [record], _dump(requests) if known else {})
        assert again.unchanged == 1


@pytest.mark.parametrize("known", [True, False])
def test_bits_outside_of_the_masks_are_left_to_this_kernel(
    requests: RequestSocket, known: bool
) -> None:
    masks, record = Masks(0xFF00, 0xF0), _marked(0x1234, 0x55)
    assert _commit(requests, [record], masks=masks).created == 1
    assert _bits(requests, record[0]) == (0x1200, 0x50)
    _commit(requests, [_marked(0x5678, 0xAA)])
    for told, wanted in (
        ((0x1234, 0x55), (0x1278, 0x5A)),
        ((0x0034, 0x05), (0x0078, 0x0A)),
        ((0, 0), (0x0078, 0x0A)),
    ):
        record = _marked(*told)
        for _ in range(2):
            held = _dump(requests) if known else {}
            result = _commit(requests, [record], held, masks)
            assert (result.failures, _bits(requests, record[0])) == (0, wanted)
        assert result.unchanged == 1


def test_labels_that_are_switched_off_are_neither_set_nor_cleared(
    requests: RequestSocket,
) -> None:
    masks, record = Masks(label_mask=0), _marked(7, 5)
    assert _commit(requests, [record], masks=masks).created == 1
    assert _bits(requests, record[0]) == (7, 0)
    _commit(requests, [_marked(7, 2)])
    assert _commit(requests, [_marked(9, 5)], masks=masks).updated == 1
    assert _bits(requests, record[0]) == (9, 2)


def test_a_timer_that_no_packet_refreshes_goes_on_as_it_was(
    requests: RequestSocket,
) -> None:
    """Somebody set FIXED_TIMEOUT; the time that is left is what counts."""
    key, body, _ = _record(_vector("udp4"))
    status = nla.attributes(body)[CTA_STATUS]
    timeout = nla.attributes(body)[CTA_TIMEOUT]
    fixed = body.replace(status, restore.be32(CTA_STATUS, 0x40E)).replace(
        timeout, restore.be32(CTA_TIMEOUT, 500)
    )
    for there in (None, body):
        if there is not None:
            assert _commit(requests, [(key, there, 0.0)]).created == 1
        for _ in range(2):
            assert _commit(requests, [(key, fixed, 400.0)]).failures == 0
            found = _dump(requests)[key]
            assert restore.status_word(nla.attributes(found)) & _FIXED_TIMEOUT
            left = restore.stored_timeout_s(key, found)
            assert left is not None
            assert 90 < left <= 100
        requests.send([restore.delete(key, 1)])


def test_gre_keeps_its_fixed_timer_when_it_is_committed_again(
    requests: RequestSocket,
) -> None:
    gre = _vector("gre4_v0")
    assert _commit(requests, [_record(gre)]).created == 1
    held = _dump(requests)
    assert restore.status_word(nla.attributes(held[gre.key])) & _FIXED_TIMEOUT
    for known in (held, {}):
        result = _commit(requests, [_record(gre)], known)
        assert (result.unchanged, result.failed) == (1, {})


def test_an_expectation_without_its_master_is_counted(requests: RequestSocket) -> None:
    result = _commit(requests, [_record(_vector("ftp4_expect_unused", 1))])
    assert result.failed == {"master absent": 1}


def test_an_expectation_that_is_there_gets_its_timer(requests: RequestSocket) -> None:
    vectors = [_vector("ftp4_expect_unused"), _vector("ftp4_expect_unused", 1)]
    assert _commit(requests, map(_record, vectors)).created == 2
    assert _commit(requests, map(_record, vectors)).unchanged == 2
    found = _dump(requests)[vectors[1].key]
    timer = nla.attributes(found)[CTA_EXPECT_TIMEOUT]
    # As long as it would have lived where it came from, whatever flows are given.
    assert 290 < int.from_bytes(timer[4:], "big") <= 300


@pytest.mark.xdist_group("table limit")
def test_a_full_table_is_one_error_and_a_count(requests: RequestSocket) -> None:
    _, limit = requests.table_size()
    key, body, _ = _record(_vector("udp4"))

    def _flows(count: int) -> Iterable[TimedRecord]:
        for number in range(count):
            end = (0x0A640000 + number // 50_000).to_bytes(4, "big")
            port = (1 + number % 50_000).to_bytes(2, "big")
            yield (
                key[:16] + end + key[20:44] + port + key[46:],
                body[:20] + end + body[24:48] + port + body[50:],
                0.0,
            )

    result = _commit(requests, _flows(limit + 1000))
    assert result.created <= limit
    assert result.failed == {TABLE_FULL: limit + 1000 - result.created}
    assert "nf_conntrack_max" in result.error


def test_a_flow_that_a_flow_table_carried_is_an_established_connection_here(
    requests: RequestSocket,
) -> None:
    vector = _vector("tcp4_masquerade")
    at = vector.body[0] | vector.body[1] << 8
    status = restore.status_word(nla.attributes(vector.body)) | 0x4006
    offloaded = vector.body[:at] + restore.be32(CTA_STATUS, status)
    plan = CommitPlan([(vector.key, offloaded, 5.0)], {}, timers=Timers(700))
    asyncio.run(carry_out(plan, requests))
    assert plan.result.created == 1, plan.result
    parts = nla.attributes(_dump(requests)[vector.key])
    assert 690 <= int.from_bytes(parts[CTA_TIMEOUT][4:], "big") <= 700
    assert not restore.status_word(parts) & 0xC000
    tcp = nla.attributes(parts[CTA_PROTOINFO], 8)
    assert tcp[CTA_PROTOINFO_TCP_STATE][4] == 3
