"""What somebody on the link can do who records, repeats and forges: nothing lasting."""

import pytest
from syncd.replication.frame import Coder
from syncd.replication.hello import Ack, Hello
from syncd.replication.peer import Peer, PeerState
from syncd.replication.seal import Security

from tests.unit.replication.talk import Talk, put

ONE, TWO = b"\x11" * 4, b"\x22" * 4
BOTH = {ONE: bytes(32), TWO: bytes(range(32))}
SEALED = Security("enforce", {ONE: BOTH[ONE]}, ONE)
PLAIN = Security()


def state(talk: Talk, name: str, of: str) -> tuple[object, ...]:
    """All that an attacker would like to change."""
    peer = talk.engines[name].peers[of]
    inbox = peer.inbox
    return (
        *(peer.state, inbox.epoch, inbox.highest, inbox.wants, inbox.service),
        *(peer.role, peer.claim, dict(peer.flows.bodies), peer.keys),
        *(tuple(inbox.lost), talk.engines[name].roles.claim),
    )


def sealing(talk: Talk) -> list[bool]:
    return [engine.sealing for engine in talk.engines.values()]


def services(talk: Talk) -> list[dict[str, int]]:
    return [dict(engine.outbox.services) for engine in talk.engines.values()]


def recorded(talk: Talk, sender: str) -> list[bytes]:
    return [datagram for name, datagram in talk.sent if name == sender]


def test_sealed_nodes_agree_and_show_nothing_of_their_flows() -> None:
    talk = Talk("a", "b", "c", security=SEALED)
    put(talk.engines["a"].own, *range(300))
    talk.run(1)
    assert talk.copy("b", "a") == talk.copy("c", "a") == talk.own("a")
    assert talk.engines["b"].peers["a"].verified
    addresses = b"\x0a\x00\x00\x01"
    assert not any(addresses in datagram for _, datagram in talk.sent)


def test_repeated_frames_of_a_life_that_goes_on_change_nothing() -> None:
    talk = Talk("a", "b", security=SEALED)
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    put(talk.engines["a"].own, 3)
    talk.run(1)
    before = state(talk, "b", "a")
    b = talk.engines["b"]
    for datagram in recorded(talk, "a"):
        assert b.receive(datagram, 0, "x", talk.now) == "replay"
        assert b.receive(datagram, 1, "x", talk.now) == "replay"
    assert state(talk, "b", "a") == before
    talk.run(1)
    assert b.peers["a"].verified


@pytest.mark.parametrize("security", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_a_life_that_ended_cannot_be_repeated_after_a_restart_of_its_node(
    security: Security,
) -> None:
    talk = Talk("a", "b", security=security)
    put(talk.engines["a"].own, 1, 2)
    talk.engines["a"].promote(talk.now)
    talk.run(1)
    old = recorded(talk, "a")
    for life in range(40):  # more lives than a node remembers as ended
        talk.start("a", epoch=1000 + life)
        talk.run(0.3, 0.02)
    talk.run(1)
    before = state(talk, "b", "a")
    assert before[1] == 1039
    for _ in range(3):
        for datagram in old:
            talk.engines["b"].receive(datagram, 0, "x", talk.now)
    assert state(talk, "b", "a") == before
    talk.run(4)
    assert talk.engines["b"].peers["a"].inbox.epoch == 1039
    assert talk.engines["b"].peers["a"].verified


@pytest.mark.parametrize("security", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_a_node_that_starts_takes_nothing_of_what_was_recorded_before(
    security: Security,
) -> None:
    """Neither the first frames that it ever hears, nor all later ones, open a life."""
    talk = Talk("a", "b", security=security)
    put(talk.engines["a"].own, 1, 2)
    talk.engines["a"].promote(talk.now)
    talk.run(1)
    old = recorded(talk, "a")
    del talk.engines["a"]
    b = talk.start("b", epoch=77)
    for step in range(200):
        for datagram in old[step % len(old) :]:
            b.receive(datagram, 0, "x", talk.now)
        talk.turn()
        talk.now += 0.05
    peer = b.peers.get("a") or Peer("a")  # a stranger is forgotten
    assert peer.inbox.epoch == 0
    assert (peer.state, peer.claim, peer.role) == (PeerState.UNKNOWN, 0, "backup")
    assert not peer.flows.bodies
    assert b.roles.claim == 0


@pytest.mark.parametrize("security", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_old_lives_that_are_repeated_do_not_keep_a_new_one_from_its_proof(
    security: Security,
) -> None:
    talk = Talk("a", "b", security=security)
    old: list[bytes] = []
    for life in range(6):
        talk.start("a", epoch=1000 + life)
        talk.sent.clear()
        talk.run(1)
        old += recorded(talk, "a")
    b = talk.start("b", epoch=77)
    a = talk.start("a", epoch=2000)
    put(a.own, 1)
    for step in range(300):
        for datagram in old[step::300]:
            b.receive(datagram, 0, "x", talk.now)
        talk.turn()
        talk.now += 0.01
    assert b.peers["a"].inbox.epoch == 2000
    assert b.peers["a"].state is PeerState.IN_STEP
    assert talk.copy("b", "a") == talk.own("a")


def test_repeated_hellos_cause_few_answers() -> None:
    talk = Talk("a", "b", security=SEALED)
    old: list[bytes] = []
    for life in range(20):
        talk.start("a", epoch=1000 + life)
        talk.sent.clear()
        talk.run(0.5)
        old += recorded(talk, "a")
    b = talk.start("b", epoch=77)
    del talk.engines["a"]
    talk.sent.clear()
    for datagram in old:
        b.receive(datagram, 0, "x", talk.now)
        talk.turn()
        talk.now += 0.001
    assert len(old) >= 200
    assert len(talk.sent) <= len(old) * 0.001 / 0.05 + 2


def test_forged_frames_are_counted_and_change_nothing() -> None:
    talk = Talk("a", "b", security=SEALED)
    put(talk.engines["a"].own, 1)
    talk.run(1)
    before = state(talk, "b", "a")
    b, coder = talk.engines["b"], Coder()
    life = talk.engines["a"].epoch
    payload = coder.pack_hello(
        Hello(role="primary", claim=99, acks=(Ack("b", b.epoch, b.outbox.number),))
    )
    for epoch in (life, 5, 6):
        for number in (1, 1000, 1 << 62):
            plain = coder.wrap("a", epoch, number, payload)
            assert b.receive(plain, 0, "x", talk.now) == "auth"
            box = b"\x02" + ONE + b"\0" + payload + bytes(16)
            sealed = coder.wrap("a", epoch, number, box)
            assert b.receive(sealed, 0, "x", talk.now) == "auth"
            other = coder.wrap("b", b.epoch, number, box)
            assert b.receive(other, 0, "x", talk.now) == "auth"
    assert state(talk, "b", "a") == before
    assert len(b.take_messages()) < 10
    talk.run(1)
    assert b.peers["a"].verified
    assert list(b.peers) == ["a"]


def test_spliced_frames_are_refused() -> None:
    talk = Talk("a", "b", "c", security=SEALED)
    put(talk.engines["a"].own, 1)
    talk.run(1)
    coder, c = Coder(), talk.engines["c"]
    one = coder.unwrap(recorded(talk, "a")[-1])
    two = coder.unwrap(recorded(talk, "b")[-1])
    for head, box in ((one, two), (two, one)):
        spliced = coder.wrap(head.sender, head.epoch, head.number + 1, box.payload)
        assert c.receive(spliced, 0, "x", talk.now) == "auth"


def test_a_late_genuine_frame_is_counted_late_and_not_as_a_replay() -> None:
    talk = Talk("a", "b", security=SEALED)
    talk.run(1)
    a, b = talk.engines["a"], talk.engines["b"]
    put(a.own, 1)
    late = [datagram for _, datagram in a.send(talk.now)]
    put(a.own, 1, seconds=50)
    for _, datagram in a.send(talk.now):
        b.receive(datagram, 0, "a", talk.now)
    before = b.peers["a"].inbox.late_frames
    for datagram in late:
        assert b.receive(datagram, 0, "a", talk.now) is None
    assert b.peers["a"].inbox.late_frames == before + len(late)


def test_nodes_in_different_modes_hear_each_other_only_through_permissive() -> None:
    talk = Talk("a", security=PLAIN)
    talk.mixed = True
    talk.start("b", security=SEALED)
    talk.run(1)
    assert not talk.engines["a"].peers
    assert not talk.engines["b"].peers
    said = talk.engines["a"].take_messages() + talk.engines["b"].take_messages()
    assert sum("[security] mode" in text for _, text in said) == 2


def test_a_rollout_goes_node_by_node_and_never_loses_sync() -> None:
    talk = Talk("a", "b", "c", security=PLAIN)
    permissive = Security("permissive", {ONE: BOTH[ONE]}, ONE)
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    for security in (permissive, SEALED):
        for name in "abc":
            before = services(talk)
            talk.engines[name].change_security(security, talk.now)
            for step in range(100):
                talk.turn()
                talk.now += 0.01
                assert step < 60 or all(
                    peer.state is PeerState.IN_STEP
                    for engine in talk.engines.values()
                    for peer in engine.peers.values()
                )
            assert services(talk) == before
            put(talk.engines["a"].own, ord(name) + 500)
            talk.run(0.3)
            assert talk.copy("b", "a") == talk.copy("c", "a") == talk.own("a")
            last = security is SEALED or name == "c"
            assert sealing(talk) == [last] * 3


def test_a_permissive_node_speaks_plain_again_when_one_that_is_off_appears() -> None:
    permissive = Security("permissive", {ONE: BOTH[ONE]}, ONE)
    talk = Talk("a", "b", security=permissive)
    talk.mixed = True
    talk.run(1)
    assert sealing(talk) == [True, True]
    talk.start("c", epoch=50, security=PLAIN)
    put(talk.engines["a"].own, 1)
    talk.run(2)
    assert not any(sealing(talk))
    assert talk.copy("c", "a") == talk.copy("b", "a") == talk.own("a")


def test_keys_are_changed_under_load_and_no_frame_is_refused() -> None:
    """`mixed` stays false: every refusal would fail the run."""
    talk = Talk("a", "b", "c", security=SEALED)
    talk.run(1)
    number = 0
    steps = [(Security("enforce", BOTH, ONE)), Security("enforce", BOTH, TWO)]
    steps.append(Security("enforce", {TWO: BOTH[TWO]}, TWO))
    for security in steps:
        for name in "abc":
            talk.engines[name].change_security(security, talk.now)
            for _ in range(30):
                number += 1
                put(talk.engines["a"].own, number)
                talk.run(0.01)
    talk.run(0.3)
    assert talk.copy("b", "a") == talk.copy("c", "a") == talk.own("a")
    assert len(talk.own("a")) == number
    for engine in talk.engines.values():
        assert all(peer.inbox.lost_frames == 0 for peer in engine.peers.values())
        assert engine.sealer.key_of("b", talk.engines["b"].epoch) in (TWO, b"")


@pytest.mark.parametrize("security", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_our_own_earlier_life_that_is_repeated_is_no_second_node(
    security: Security,
) -> None:
    """Not even for a node that is alone: it stays ready and keeps its role."""
    talk = Talk("a", security=security)
    talk.run(20, 0.05)
    old = recorded(talk, "a")
    again = talk.start("a", epoch=77)
    for step in range(400):
        again.receive(old[step * len(old) // 400], 0, "x", talk.now)
        talk.turn()
        talk.now += 0.03
    assert not again.agreement.membership.twin_source
    assert again.ready
    assert not any("calls itself" in text for _, text in again.take_messages())


@pytest.mark.parametrize("security", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_an_earlier_life_of_a_peer_that_is_repeated_is_no_second_node(
    security: Security,
) -> None:
    talk = Talk("a", "b", security=security)
    talk.run(20, 0.05)
    old = recorded(talk, "a")
    talk.start("a", epoch=1000)
    b = talk.start("b", epoch=77)
    talk.run(2)
    b.take_messages()
    for step in range(400):
        b.receive(old[step * len(old) // 400], 0, "x", talk.now)
        talk.turn()
        talk.now += 0.03
    assert b.peers["a"].inbox.epoch == 1000
    assert b.peers["a"].rival_at < 0
    assert not any("two nodes" in text for _, text in b.take_messages())


def test_a_flood_from_many_sources_does_not_silence_other_warnings() -> None:
    talk = Talk("a", "b", security=SEALED)
    talk.run(1)
    b = talk.engines["b"]
    b.take_messages()
    plain = Talk("a").engines["a"].send(100.0)[0][1]
    for number in range(1000):
        assert b.receive(plain, 0, f"source {number}", talk.now) == "auth"
    assert len(b.take_messages()) == 64
    assert b.receive(b"\x91\x02", 0, "somebody", talk.now) == "malformed"
    assert len(b.take_messages()) == 1


def test_a_frame_recorded_before_a_start_proves_nothing_and_one_of_now_does() -> None:
    """What a TCP link goes by when somebody calls from a peer's address."""
    talk = Talk("a", "b", security=SEALED)
    put(talk.engines["a"].own, 1, 2)
    talk.run(1)
    old = recorded(talk, "a")
    b = talk.start("b", epoch=77)
    proven = []
    for datagram in old:  # of a life that goes on, but from before this start
        b.receive(datagram, 0, "x", talk.now)
        proven.append(b.proven)
    talk.run(2)
    for datagram in old:
        b.receive(datagram, 0, "x", talk.now)
        proven.append(b.proven)
    assert not any(proven)
    talk.sent.clear()
    put(talk.engines["a"].own, 3)
    talk.deliver = lambda *_: False
    talk.turn()
    assert b.receive(recorded(talk, "a")[0], 0, "x", talk.now) is None
    assert b.proven


def test_old_frames_do_not_keep_the_question_from_being_put_anew() -> None:
    """A frame that answered an earlier question is old as well, some seconds later."""
    talk = Talk("b", security=SEALED)
    b = talk.engines["b"]
    ghost = Talk("a", security=SEALED)
    other = Talk("a", security=SEALED)
    other.start("a", epoch=500)
    ghost.run(80, 0.5)
    repeated = iter(recorded(ghost, "a"))
    a = other.engines["a"]
    answer: list[bytes] = []
    for _ in range(60):
        b.receive(next(repeated), 0, "x", talk.now)  # a candidate at all times
        b.tick(talk.now)
        for _, datagram in b.send(talk.now):
            a.receive(datagram, 0, "b", talk.now)
        a.tick(talk.now)
        answer += [datagram for _, datagram in a.send(talk.now)]
        talk.now += 0.1
    # That life ended; b heard none of it, its answers were kept by somebody.
    for _ in range(4):
        for _ in range(10):
            b.receive(next(repeated), 0, "x", talk.now)
            b.tick(talk.now)
            b.send(talk.now)
            talk.now += 0.1
    for datagram in answer:
        b.receive(datagram, 0, "x", talk.now)
    assert b.peers["a"].inbox.epoch == 0
