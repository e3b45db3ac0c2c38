"""Two and three engines agree, lose each other, and agree again."""

import pytest
from syncd.flows.nla import nested
from syncd.replication.frame import Coder, Data
from syncd.replication.hello import Ack, Hello
from syncd.replication.peer import PeerState
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put


def test_two_nodes_that_hear_each_other_are_in_step_and_verified() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2, 3)
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert talk.engines["a"].peers["b"].state is PeerState.IN_STEP
    assert talk.engines["b"].peers["a"].verified
    assert talk.engines["a"].ready


def test_a_change_and_an_end_reach_the_peer() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    put(talk.engines["a"].own, 1, seconds=30)
    talk.engines["a"].own.flows.end(flow_key(2))
    talk.run(0.2)
    assert list(talk.copy("b", "a")) == [flow_key(1)]
    assert talk.copy("b", "a") == talk.own("a")


def test_a_lone_change_leaves_with_the_next_send() -> None:
    talk = Talk("a", "b")
    talk.run(1)
    put(talk.engines["a"].own, 1)
    assert talk.engines["a"].deadline() == talk.engines["a"]._now
    talk.turn()
    assert talk.copy("b", "a") == talk.own("a")


def test_the_last_frame_of_a_burst_is_missed_and_told_again() -> None:
    talk = Talk("a", "b")
    talk.run(1)
    put(talk.engines["a"].own, 1)
    talk.deliver = lambda sender, _receiver, _datagram: sender != "a"
    talk.turn()
    talk.deliver = lambda _sender, _receiver, _datagram: True
    assert talk.copy("b", "a") == {}
    talk.run(0.4)
    assert talk.copy("b", "a") == talk.own("a")
    assert talk.engines["b"].peers["a"].inbox.lost_frames > 0


def test_a_frame_that_comes_late_changes_nothing() -> None:
    talk = Talk("a", "b")
    talk.run(1)
    a, b = talk.engines["a"], talk.engines["b"]
    put(a.own, 1)
    late = [datagram for _, datagram in a.send(talk.now)]
    a.own.flows.end(flow_key(1))
    for _, datagram in a.send(talk.now):
        b.receive(datagram, 0, "a", talk.now)
    for datagram in late:
        b.receive(datagram, 0, "a", talk.now)
    assert talk.copy("b", "a") == {}
    assert b.peers["a"].inbox.late_frames == len(late)


def test_a_resync_removes_what_ended_while_nobody_listened() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, *range(200))
    talk.run(1)
    talk.deliver = lambda _sender, _receiver, _datagram: False
    for number in range(0, 200, 2):
        talk.engines["a"].own.flows.end(flow_key(number))
    talk.run(5)
    assert talk.engines["b"].peers["a"].state is PeerState.LOST
    assert len(talk.copy("b", "a")) == 200
    talk.deliver = lambda _sender, _receiver, _datagram: True
    talk.run(2)
    assert talk.copy("b", "a") == talk.own("a")
    assert len(talk.own("a")) == 100


def test_a_restarted_sender_with_another_table_is_swept() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2, 3)
    talk.run(1)
    put(talk.start("a", epoch=77).own, 3, 4)
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert set(talk.copy("b", "a")) == {flow_key(3), flow_key(4)}


def test_a_restarted_standby_is_told_everything() -> None:
    talk = Talk("a", "b", "c")
    put(talk.engines["a"].own, *range(300))
    talk.run(1)
    talk.start("b", epoch=78)
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert talk.copy("c", "a") == talk.own("a")


def test_a_node_that_has_not_read_its_kernel_sweeps_nobody() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    restarted = talk.start("a", epoch=79)
    restarted.kernel_read = False
    talk.run(1)
    assert len(talk.copy("b", "a")) == 2


def test_a_window_that_is_full_holds_frames_back_until_it_is_acknowledged() -> None:
    talk = Talk("a", "b", settings=Settings(window_frames=4))
    talk.run(1)
    put(talk.engines["a"].own, *range(2000))
    talk.deliver = lambda sender, _receiver, _datagram: sender == "a"
    talk.run(0.2)
    assert len(talk.engines["a"].outbox.unacked) == 4
    assert talk.engines["a"].own.flows.marks
    talk.deliver = lambda _sender, _receiver, _datagram: True
    talk.run(3)
    assert talk.copy("b", "a") == talk.own("a")


def test_without_peers_nothing_is_remembered_for_them() -> None:
    talk = Talk("a")
    put(talk.engines["a"].own, *range(100))
    talk.run(1)
    assert not talk.engines["a"].own.flows.marks
    assert not talk.engines["a"].outbox.unacked


def test_a_peer_that_does_not_hear_us_is_lost_and_does_not_slow_the_others() -> None:
    talk = Talk("a", "b", "c", settings=Settings(window_frames=4))
    talk.run(1)
    talk.deliver = lambda sender, receiver, _datagram: (sender, receiver) != ("a", "c")
    put(talk.engines["a"].own, *range(3000))
    talk.run(6)
    assert talk.engines["a"].peers["c"].state is PeerState.LOST
    assert talk.copy("b", "a") == talk.own("a")
    talk.deliver = lambda _sender, _receiver, _datagram: True
    talk.run(3)
    assert talk.copy("c", "a") == talk.own("a")


def test_a_difference_is_found_named_and_repaired() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2, 3)
    talk.run(1)
    copies = talk.engines["b"].peers["a"].flows
    copies.drop([flow_key(2)])
    talk.engines["b"].verify(talk.now)
    talk.run(0.05)
    assert talk.engines["b"].comparison.differences == 1
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert talk.engines["b"].peers["a"].verified
    assert talk.engines["b"].peers["a"].repaired == 1


def test_a_demoted_node_holds_ends_back_until_somebody_took_over() -> None:
    talk = Talk("a", "b")
    talk.engines["a"].promote(talk.now)
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    talk.engines["a"].demote(talk.now)
    talk.engines["a"].own.flows.end(flow_key(1))
    talk.run(1)
    assert len(talk.copy("b", "a")) == 2
    assert talk.engines["b"].peers["a"].owner
    talk.engines["b"].promote(talk.now)
    talk.run(1)
    assert list(talk.copy("b", "a")) == [flow_key(2)]
    assert not talk.engines["b"].peers["a"].owner


def test_a_restarted_primary_is_primary_again_unless_somebody_took_over() -> None:
    talk = Talk("a", "b")
    talk.engines["a"].promote(talk.now)
    talk.run(1)
    talk.start("a", epoch=80)
    talk.run(1)
    assert talk.engines["a"].roles.role == "primary"
    talk.engines["b"].promote(talk.now)
    talk.run(1)
    talk.start("a", epoch=81)
    talk.run(1)
    assert talk.engines["a"].roles.role == "backup"
    assert talk.engines["a"].roles.claim == 1


def test_a_role_that_was_remembered_ends_when_somebody_turns_out_to_have_it() -> None:
    """Of three nodes the one that remembers did not know of the takeover."""
    talk = Talk("a", "b", "c")
    talk.engines["a"].promote(talk.now)
    talk.run(1)
    talk.engines["b"].promote(talk.now)
    talk.run(1)
    a = talk.engines["a"]
    a.roles.role, a.agreement.role_given = "primary", False
    talk.run(1)
    assert a.roles.role == "backup"


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "malformed"),
        (b"\x01", "malformed"),
        (b"\xc1" * 2000, "malformed"),
        (bytes(65507), "malformed"),
        (Coder().wrap("x", 1, 1, Coder().pack_data(Data()))[:-1], "malformed"),
        (b"\x95\x02\xa1x\x01\x01\xc4\x00", "version"),
    ],
)
def test_what_is_no_frame_is_refused_and_said_once(
    datagram: bytes, reason: str
) -> None:
    talk = Talk("a")
    engine = talk.engines["a"]
    engine.take_messages()
    assert engine.receive(datagram, 0, "10.0.0.9", talk.now) == reason
    assert engine.receive(datagram, 0, "10.0.0.9", talk.now) == reason
    messages = engine.take_messages()
    assert len(messages) == 1
    assert "10.0.0.9" in messages[0][1]


def test_another_byte_order_is_refused_at_hello() -> None:
    talk = Talk("a")
    engine = talk.engines["a"]
    hello = Coder().wrap("z", 5, 1, Coder().pack_hello(Hello(order="big")))
    assert engine.receive(hello, 0, "z", talk.now) == "version"
    assert engine.peers["z"].state is PeerState.REFUSED
    assert any("byte order" in text for _, text in engine.take_messages())


def test_frames_of_a_life_that_is_over_are_ignored() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1)
    old = talk.engines["a"]
    talk.run(1)
    talk.start("a", epoch=90)
    talk.run(1)
    assert talk.copy("b", "a") == {}
    put(old.own, 2)
    for _, datagram in old.send(talk.now):
        talk.engines["b"].receive(datagram, 0, "a", talk.now)
    assert talk.copy("b", "a") == {}
    assert talk.engines["b"].peers["a"].inbox.epoch == 90


def test_a_node_that_forgot_its_peers_is_not_ready_until_it_asked_again() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    assert talk.engines["b"].forget_peers() == 2
    assert talk.engines["b"].peers["a"].completeness == 0.0
    talk.run(1)
    assert talk.engines["b"].peers["a"].state is PeerState.SYNCING
    assert not talk.engines["b"].ready
    talk.engines["b"].pull(talk.now)
    talk.run(1)
    assert talk.engines["b"].peers["a"].verified
    assert talk.copy("b", "a") == talk.own("a")


def test_a_copy_of_a_flow_that_its_owner_ended_is_to_be_deleted() -> None:
    talk = Talk("a", "b")
    talk.engines["a"].promote(talk.now)
    put(talk.engines["a"].own, 1, 2)
    put(talk.engines["b"].own, 1, 3)  # 1 is a copy from an earlier time
    talk.run(1)
    for number in (1, 2):
        talk.engines["a"].own.flows.end(flow_key(number))
    talk.run(0.2)
    assert talk.engines["b"].take_ended_elsewhere() == [flow_key(1)]
    assert talk.engines["a"].take_ended_elsewhere() == []


def test_a_copy_of_an_expectation_that_its_owner_ended_is_to_be_deleted() -> None:
    talk = Talk("a", "b")
    talk.engines["a"].promote(talk.now)
    key = b"\x02\0\0\0" + nested(2, bytes(28)) + nested(3, bytes(28))
    for engine in talk.engines.values():
        engine.own.expectations.put(key, nested(1, bytes(28)), b"\0\0\0\1", 1)
    talk.run(1)
    talk.engines["a"].own.expectations.end(key)
    talk.run(0.2)
    assert talk.engines["b"].take_ended_elsewhere() == [key]


def test_data_leaves_by_the_first_usable_link_and_hello_by_each() -> None:
    talk = Talk("a")
    engine = talk.engines["a"]
    engine.link_changed(0, usable=False, frame_bytes=1400)
    engine.link_changed(1, usable=True, frame_bytes=600)
    engine.link_changed(2, usable=True, frame_bytes=900)
    assert [place for place, _ in engine.send(talk.now)] == [1, 2]
    assert engine.paths.used == (1,)
    assert engine.outbox.payload_bytes <= 600 - 20
    engine.link_changed(1, usable=False, frame_bytes=600)
    assert [place for place, _ in engine.send(talk.now + 1)] == [2]
    assert 600 < engine.outbox.payload_bytes < 900
    engine.link_changed(2, usable=False, frame_bytes=900)
    assert engine.send(talk.now + 2) == []


def test_a_resync_ends_while_changes_come_faster_than_they_can_be_told() -> None:
    talk = Talk("a", "b", settings=Settings(burst_frames=1))
    a, peers = talk.engines["a"], talk.engines["b"].peers
    put(a.own, *range(2000))
    for turn in range(100):
        changed = ((turn * 1500 + at) % 2000 for at in range(1500))
        put(a.own, *changed, seconds=turn + 1)
        talk.turn()
        talk.now += 0.01
    assert a.own.flows.marks
    assert peers["a"].state is PeerState.IN_STEP
    assert peers["a"].verified


@pytest.mark.parametrize("claim", [(1 << 62) - 1, 1 << 62, (1 << 63) - 1])
def test_a_claim_that_cannot_be_makes_nobody_unheard(claim: int) -> None:
    talk = Talk("a", "b")
    talk.run(1)
    a, b = talk.engines["a"], talk.engines["b"]
    coder = a.agreement.coder
    for hello in (
        Hello(claim=claim),
        Hello(acks=(Ack("a", a.epoch, 1, claim=claim),)),
    ):
        b.outbox.number += 1
        payload = coder.pack_hello(hello)
        frame = coder.wrap("b", b.epoch, b.outbox.number, payload)
        refused = a.receive(frame, 0, "b", talk.now)
        assert (refused == "malformed") is (claim >= 1 << 62)
    a.promote(talk.now)
    talk.run(1)
    assert b.peers["a"].claim == a.roles.claim > 0
    assert b.peers["a"].state is PeerState.IN_STEP
