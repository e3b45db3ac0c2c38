"""What ended, and why: the recorded DESTROY messages, after the events before them."""

import pytest
from syncd.flows import ending, nla
from syncd.flows.ending import Ending
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader

from tests.unit.flows.recorded import recorded, without_portid


def endings_of(scenario: str, *, by_program: bool = True) -> list[Ending]:
    """The endings of a scenario; `by_program` false: as if nobody had flushed."""
    own, reader = Own(), RecordReader()
    own.ended = []
    messages = [one.message for one in recorded(scenario)]
    if not by_program:
        messages = [without_portid(message) for message in messages]
    own.apply(reader.read(messages), 0.0)
    return [ending.ending_of(*pair) for pair in ending.ends_of(messages, own.ended)]


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("udp4_timeout", "expired"),
        ("tcp4_close", "closed"),
        ("tcp4_time_wait_reuse", "closed"),
        ("sctp4", "closed"),
        ("tcp4_reset", "reset"),
        ("tcp4_refused", "reset"),
        ("udp4", "deleted"),
    ],
)
def test_the_reason_is_what_the_last_message_tells(scenario: str, reason: str) -> None:
    assert endings_of(scenario)[0].reason == reason


def test_time_that_was_left_means_that_it_was_evicted_or_removed() -> None:
    assert endings_of("udp4_unreplied", by_program=False)[0].reason == "evicted"
    assert endings_of("udp4", by_program=False)[0].reason == "removed"


def test_a_program_is_named_by_its_portid() -> None:
    assert endings_of("udp4")[0].portid == 24152
    assert endings_of("udp4_timeout")[0].portid == 0


def test_what_the_last_message_lacks_comes_from_the_table() -> None:
    for scenario, attribute in (("ftp4_passive", 5), ("labels", 22), ("ftp4_zone", 14)):
        wholes = [ending.whole(one) for one in endings_of(scenario)]
        found = [attribute in nla.attributes(message[20:]) for message in wholes]
        assert any(found), scenario
        assert all(len(m) == int.from_bytes(m[:4], "little") for m in wholes)


def test_a_flow_that_was_not_known_lacks_it() -> None:
    last = [one.message for one in recorded("labels")][-1]
    own, reader = Own(), RecordReader()
    own.ended = []
    own.apply(reader.read([last]), 0.0)
    ((message, end),) = ending.ends_of([last], own.ended)
    assert end[1] is None
    assert ending.ending_of(message, end).extra == b""


def test_an_end_finds_its_message_among_damaged_ones() -> None:
    messages = [one.message for one in recorded("udp4") + recorded("icmp4")]
    own, reader = Own(), RecordReader()
    own.ended = []
    own.apply(reader.read(messages), 0.0)
    damaged = bytearray(messages[-1])
    damaged[20:22] = b"\2\0"
    mixed = [bytes(damaged), *messages, bytes(damaged)]
    pairs = ending.ends_of(mixed, own.ended)
    assert [m for m, _ in pairs] == [m for m in messages if m[4:6] == b"\2\1"]


def test_the_time_that_was_left_can_be_left_out() -> None:
    (one,) = endings_of("udp4")
    shorter = ending.without_timeout(one.message)
    assert len(shorter) == len(one.message) - 8 == int.from_bytes(shorter[:4], "little")
    assert ending.without_timeout(shorter) == shorter


def test_a_planted_copy_and_one_that_was_taken_over_are_told_apart() -> None:
    new, *_, last = [one.message for one in recorded("udp4")]
    reader = RecordReader()
    _, key, body, _, _ = reader.read_one(new)
    own = Own()
    own.ended, own.flows.adopted = [], set()
    own.plant([(key, body)])
    own.apply(reader.read([last]), 0.0)
    own.flows.adopt([(key, body, 0.0)])
    own.apply(reader.read([last]), 0.0)
    planted, adopted = own.ended
    assert planted[1:] == (None, True, False)
    assert adopted[1:] == (body, False, True)  # its attributes are not known yet
    assert own.flows.adopted == set()


def test_what_a_dump_does_not_show_is_missed() -> None:
    own, reader = Own(), RecordReader()
    own.flows.missed = []
    own.apply(reader.read([recorded("udp4")[0].message]), 0.0)
    ((key, body),) = own.flows.bodies.items()
    own.begin_dump()
    own.end_dump(0.0)
    assert own.flows.missed == [(key, body)]
    lost = ending.lost_ending(key, body, taken_over=False)
    assert lost.reason == "lost"
    assert int.from_bytes(lost.message[:4], "little") == len(lost.message)
