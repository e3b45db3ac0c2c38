"""What is sorted out fast is simple; everything else is left for a closer look."""

import pytest
from syncd.flows import nla
from syncd.flows.closing import CLOSING_S, Closing
from syncd.flows.triage import Sorted, triage

from tests.unit.flows.test_forward import ESTABLISHED, FIN_WAIT, SYN_SENT, TIME_WAIT
from tests.unit.replication.talk import flow_body, flow_key

KEY, LONG_S = flow_key(1), 600
GRE = KEY[:36] + b"\x2f" + KEY[37:]


def tcp(state: int, status: int) -> bytes:
    """A body as kernels write them, PROTOINFO with all its parts."""
    scales = nla.tlv(2, b"\7") + nla.tlv(3, b"\7")
    flags = nla.tlv(4, b"\x23\0") + nla.tlv(5, b"\x23\0")
    inner = nla.nested(1, nla.tlv(1, bytes((state,))) + scales + flags)
    head = flow_body(1)[:52] + nla.tlv(3, status.to_bytes(4)) + nla.tlv(7, bytes(4))
    return head + nla.nested(4, inner)


def sorted_out(
    told: dict[bytes, bytes],
    planted: dict[bytes, bytes],
    own: dict[bytes, bytes] | None = None,
    closing: Closing | None = None,
    now: float = 0.0,
) -> Sorted:
    """What comes of all these keys."""
    keys = list({**told, **planted}) or [KEY]
    return triage(keys, told, planted, own or {}, closing or Closing(), LONG_S, now)


def sort(
    body: bytes,
    held: bytes | None = None,
    key: bytes = KEY,
    closing: Closing | None = None,
    now: float = 0.0,
) -> str:
    """Where the key lands."""
    planted = {} if held is None else {key: held}
    result = sorted_out({key: body}, planted, closing=closing, now=now)
    lists = ("fresh_short", "fresh_long", "changed_short", "changed_long")
    names = (*lists, "deletes", "ended", "rest")
    found = [name for name in names if getattr(result, name)]
    assert len(found) <= 1
    return found[0] if found else ""


def test_new_flows_go_by_their_timers() -> None:
    assert sort(flow_body(1, LONG_S - 1)) == "fresh_short"
    assert sort(flow_body(1, LONG_S)) == "fresh_long"


def test_changes_go_by_their_timers_and_what_is_the_same_is_dropped() -> None:
    body = flow_body(1, LONG_S)
    assert sort(body, body) == ""
    assert sort(body, flow_body(1, 5)) == "changed_long"
    assert sort(flow_body(1, 5), body) == "changed_short"


def test_a_connection_that_closes_waits_once() -> None:
    closing, closes = Closing(), (tcp(FIN_WAIT, 0xE), tcp(ESTABLISHED, 0xE))
    assert sort(*closes, closing=closing, now=5.0) == ""
    assert closing.due(5.0 + CLOSING_S - 0.01) == []
    assert sort(*closes, closing=closing, now=5.0 + CLOSING_S - 0.01) == ""
    assert closing.due(5.0 + CLOSING_S) == [KEY]
    assert closing.due(9.0) == []
    assert sort(*closes, closing=closing, now=5.0 + CLOSING_S) == "rest"
    assert closing.end(KEY) == FIN_WAIT
    assert closing.end(KEY) == 0
    assert sort(tcp(FIN_WAIT, 0xE), tcp(SYN_SENT, 0xE)) == "changed_short"


def test_what_waits_is_due_at_once_when_there_is_hurry() -> None:
    closing, closes = Closing(), (tcp(FIN_WAIT, 0xE), tcp(ESTABLISHED, 0xE))
    assert sort(*closes, closing=closing) == ""
    assert closing.hurry() == [KEY]
    assert sort(*closes, closing=closing) == "rest"


@pytest.mark.parametrize(
    ("body", "held", "key"),
    [
        (flow_body(1), flow_body(2), KEY),  # another reply tuple
        (tcp(SYN_SENT, 0x8), tcp(ESTABLISHED, 0xE), KEY),  # bits are gone
        (tcp(ESTABLISHED, 0x2E), tcp(ESTABLISHED, 0xE), KEY),  # NAT came
        (tcp(ESTABLISHED, 0xF), None, KEY),  # related
        (flow_body(1), None, GRE),
        (flow_body(1), None, KEY[:6] + b"\2" + KEY[7:]),  # an expectation
        (flow_body(1)[:60], None, KEY),  # nothing behind STATUS
    ],
)
def test_what_is_not_simple_is_looked_at(
    body: bytes, held: bytes | None, key: bytes
) -> None:
    assert sort(body, held, key) == "rest"


def test_own_flows_and_what_has_no_copy_are_looked_at() -> None:
    body = flow_body(1)
    assert sorted_out({KEY: body}, {}, {KEY: body}).rest == [KEY]
    assert sorted_out({}, {KEY: body}, {KEY: body}).rest == [KEY]
    assert sorted_out({}, {}).rest == [KEY]


def test_copies_that_nobody_tells_any_more_have_ended() -> None:
    assert sorted_out({}, {KEY: flow_body(1)}).ended == [KEY]
    assert sorted_out({}, {KEY: b""}).ended == [KEY]
    assert sorted_out({}, {KEY: tcp(ESTABLISHED, 0xE)}).ended == [KEY]


def test_the_copy_of_a_connection_whose_last_packets_were_seen_is_not_asked_for() -> (
    None
):
    assert sorted_out({}, {KEY: tcp(TIME_WAIT, 0xE)}).deletes == [KEY]
    closing = Closing()
    assert sort(tcp(TIME_WAIT, 0xE), tcp(ESTABLISHED, 0xE), closing=closing) == ""
    ended = sorted_out({}, {KEY: tcp(ESTABLISHED, 0xE)}, closing=closing)
    assert ended.deletes == [KEY]
    assert closing.end(KEY) == 0
