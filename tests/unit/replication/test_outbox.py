"""Frames are numbered and packed; what is lost is marked again."""

from syncd.flows.digest import Digest
from syncd.flows.own import Own
from syncd.replication.frame import Coder, Data, Numbered
from syncd.replication.outbox import Outbox

from tests.unit.replication.talk import flow_body, flow_key, put


def made(*peers: str, window: int = 8, payload_bytes: int = 1400) -> tuple[Outbox, Own]:
    outbox = Outbox(Coder(), window, payload_bytes)
    for peer in peers:
        outbox.join(peer)
    return outbox, Own()


def content(frame: Numbered | None) -> Data:
    assert frame is not None
    data = Coder().content(frame[1])
    assert isinstance(data, Data)
    return data


def drained(outbox: Outbox, own: Own) -> int:
    count = 0
    while outbox.pack_marks(own) is not None:
        count += 1
    return count


def test_every_mark_leaves_once_and_no_frame_is_larger_than_allowed() -> None:
    outbox, own = made("b", window=1000, payload_bytes=548)
    put(own, *range(500))
    told: list[bytes] = []
    while (frame := outbox.pack_marks(own)) is not None:
        assert len(frame[1]) <= 548
        told += content(frame).flows[::2]
    assert sorted(told) == sorted(own.flows.bodies)
    assert not own.flows.marks


def test_keys_of_a_lost_frame_are_marked_again() -> None:
    outbox, own = made("b")
    put(own, 1)
    outbox.pack_marks(own)
    put(own, 2)
    outbox.pack_marks(own)
    assert outbox.acknowledge("b", 2, [(1, 1)], own)
    assert own.flows.marks == {flow_key(1): flow_body(1)}
    assert not outbox.unacked


def test_an_end_is_told_until_it_is_acknowledged() -> None:
    outbox, own = made("b")
    put(own, 1)
    drained(outbox, own)
    own.flows.end(flow_key(1))
    assert content(outbox.pack_marks(own)).flow_ends == [flow_key(1)]
    outbox.acknowledge("b", 2, [(2, 2)], own)
    assert content(outbox.pack_marks(own)).flow_ends == [flow_key(1)]


def test_a_frame_is_kept_in_mind_until_the_slowest_has_it() -> None:
    outbox, own = made("b", "c")
    put(own, 1)
    drained(outbox, own)
    outbox.acknowledge("b", 1, [], own)
    assert outbox.floor == 1
    outbox.acknowledge("c", 1, [], own)
    assert outbox.floor == 2


def test_an_acknowledgement_of_what_was_never_sent_is_ignored() -> None:
    outbox, own = made("b")
    assert not outbox.acknowledge("b", 5, [], own)
    assert not outbox.acknowledge("z", 0, [], own)


def test_a_peer_that_leaves_is_not_waited_for() -> None:
    outbox, own = made("b", window=1)
    put(own, 1)
    drained(outbox, own)
    assert not outbox.window_open
    outbox.leave("b")
    assert outbox.window_open


def test_a_pass_tells_everything_and_is_complete_when_acknowledged() -> None:
    outbox, own = made("b", window=1000)
    put(own, *range(300))
    drained(outbox, own)
    outbox.acknowledge("b", outbox.number, [], own)
    outbox.begin_pass(1, own, ["b"])
    told: list[bytes] = []
    while (frame := outbox.pack_pass(own)) is not None:
        assert content(frame).resync == 1
        told += content(frame).flows[::2]
    assert sorted(told) == sorted(own.flows.bodies)
    assert outbox.advance_pass(own) == []
    outbox.acknowledge("b", outbox.number, [], own)
    assert outbox.advance_pass(own) == ["b"]
    assert outbox.completed == {"b": 1}
    assert outbox.running is None


def test_a_pass_with_a_lost_frame_is_not_complete_until_it_is_told_again() -> None:
    outbox, own = made("b", window=1000)
    put(own, *range(300))
    own.flows.marks.clear()
    outbox.begin_pass(1, own, ["b"])
    while outbox.pack_pass(own) is not None:
        pass
    outbox.advance_pass(own)
    outbox.acknowledge("b", outbox.number, [(2, 2)], own)
    assert outbox.advance_pass(own) == []
    assert drained(outbox, own) > 0
    assert outbox.advance_pass(own) == []
    outbox.acknowledge("b", outbox.number, [], own)
    assert outbox.advance_pass(own) == ["b"]


def test_a_pass_over_nothing_still_says_so() -> None:
    outbox, own = made("b")
    outbox.begin_pass(4, own, ["b"])
    assert content(outbox.pack_pass(own)).resync == 4
    assert outbox.pack_pass(own) is None
    outbox.acknowledge("b", 1, [(1, 1)], own)
    assert content(outbox.pack_pass(own)).resync == 4


def test_a_key_that_a_pass_told_has_an_end_that_is_told() -> None:
    outbox, own = made("b")
    put(own, 1)
    outbox.begin_pass(1, own, ["b"])
    outbox.pack_pass(own)
    own.flows.end(flow_key(1))
    assert content(outbox.pack_marks(own)).flow_ends == [flow_key(1)]


def test_a_record_that_no_frame_can_carry_is_counted_and_passed_over() -> None:
    outbox, own = made("b", payload_bytes=300)
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(64))
    own.flows.put(flow_key(1), noise, b"", 1)
    put(own, 2)
    assert content(outbox.pack_marks(own)).flows[::2] == [flow_key(2)]
    assert outbox.oversized == 1


def test_the_digest_is_over_what_was_told_not_over_what_is() -> None:
    outbox, own = made("b")
    put(own, 1, 2)
    drained(outbox, own)
    put(own, 1, seconds=30)
    put(own, 3)
    own.flows.end(flow_key(2))
    told = Digest()
    told.store({}, [flow_key(1), flow_body(1), flow_key(2), flow_body(2)])
    assert outbox.told.values == told.values
    drained(outbox, own)
    told = Digest()
    told.store({}, [flow_key(1), flow_body(1, 30), flow_key(3), flow_body(3)])
    assert outbox.told.values == told.values


def test_marks_that_nobody_was_there_to_hear_count_as_told() -> None:
    outbox, own = made()
    put(own, 1, 2)
    outbox.forget_marks(own)
    own.flows.end(flow_key(2))
    outbox.forget_marks(own)
    told = Digest()
    told.store({}, [flow_key(1), flow_body(1)])
    assert not own.flows.marks
    assert outbox.told.values == told.values


def test_a_key_marked_again_keeps_what_was_told_of_it() -> None:
    outbox, own = made("b")
    put(own, 1)
    outbox.pack_marks(own)
    put(own, 1, seconds=30)
    outbox.acknowledge("b", 1, [(1, 1)], own)
    assert own.flows.told(flow_key(1)) == flow_body(1)
    drained(outbox, own)
    assert own.flows.told(flow_key(1)) == flow_body(1, 30)


def test_many_records_that_no_frame_can_carry_are_passed_over_as_well() -> None:
    outbox, own = made("b", payload_bytes=300)
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(64))
    for number in range(3000):
        own.flows.put(flow_key(number), noise, b"", 1)
    assert outbox.pack_marks(own) is None
    assert outbox.oversized == 3000
    outbox.begin_pass(1, own, ["b"])
    assert content(outbox.pack_pass(own)).flows == []
    assert outbox.oversized == 6000


def test_what_a_walk_tells_is_in_the_digest_marked_or_not() -> None:
    outbox, own = made("b")
    put(own, 1)
    outbox.pack_keys(own, [flow_key(1)], [])
    told = Digest()
    told.store({}, [flow_key(1), flow_body(1)])
    assert outbox.told.values == told.values


def test_frames_are_full_again_after_a_record_that_none_can_carry() -> None:
    outbox, own = made("b", payload_bytes=1300)
    put(own, *range(1000))
    before = drained(outbox, own)
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(400))
    own.flows.put(flow_key(5000), noise, b"", 1)
    put(own, *range(1000), seconds=9)
    assert drained(outbox, own) <= before + 30
    put(own, *range(1000), seconds=10)
    assert drained(outbox, own) <= before + 1
