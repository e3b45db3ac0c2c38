"""Modes "refresh" and "best-effort": what is told once, what is told again."""

import pytest
from syncd.replication.peer import PeerState
from syncd.replication.settings import BEST_EFFORT, REFRESH, Settings

from tests.unit.replication.talk import Talk, flow_key, put

REFRESHING = Settings(mode=REFRESH, refresh_interval_s=5.0, expire_s=10.0)
ONCE = Settings(mode=BEST_EFFORT)
MODES = pytest.mark.parametrize("settings", [REFRESHING, ONCE], ids=["refresh", "once"])


def deaf(talk: Talk) -> None:
    """DATA of node a is lost; HELLOs come through."""
    engine = talk.engines["b"]

    def deliver(sender: str, _receiver: str, datagram: bytes) -> bool:
        if sender != "a":
            return True
        coder = engine.agreement.coder
        content = coder.content(coder.unwrap(datagram).payload)
        return type(content).__name__ == "Hello"

    talk.deliver = deliver


def heal(talk: Talk) -> None:
    talk.deliver = lambda _sender, _receiver, _datagram: True


@MODES
def test_a_new_peer_is_told_everything_and_changes_follow(settings: Settings) -> None:
    talk = Talk("a", "b", settings=settings)
    put(talk.engines["a"].own, *range(300))
    talk.run(2)
    assert talk.copy("b", "a") == talk.own("a")
    put(talk.engines["a"].own, 1, seconds=5)
    talk.engines["a"].own.flows.end(flow_key(2))
    talk.run(0.1)
    assert talk.copy("b", "a") == talk.own("a")
    talk.run(2)
    assert talk.engines["b"].ready
    assert talk.engines["b"].peers["a"].verified


@MODES
def test_the_start_is_complete_although_frames_are_lost(settings: Settings) -> None:
    talk = Talk("a", "b", settings=settings)
    put(talk.engines["a"].own, *range(500))
    turns = [0]

    def lossy(_sender: str, _receiver: str, _datagram: bytes) -> bool:
        turns[0] += 1
        return turns[0] % 3 != 0

    talk.deliver = lossy
    talk.run(4)
    assert talk.copy("b", "a") == talk.own("a")


@MODES
def test_changes_are_told_once_and_nothing_waits_for_an_acknowledgement(
    settings: Settings,
) -> None:
    talk = Talk("a", "b", settings=settings)
    talk.run(2)
    deaf(talk)
    a = talk.engines["a"]
    before = a.outbox.number
    for step in range(20):
        put(a.own, *range(400), seconds=step + 1)
        talk.turn()
        assert not a.outbox.unacked
        assert not a.own.flows.marks
    assert a.outbox.number - before > 40
    talk.run(0.5)
    assert talk.copy("b", "a") != talk.own("a")


def test_best_effort_says_that_copies_differ_until_a_resync_is_asked_for() -> None:
    talk = Talk("a", "b", settings=ONCE)
    put(talk.engines["a"].own, *range(50))
    talk.run(2)
    deaf(talk)
    put(talk.engines["a"].own, *range(30, 80), seconds=9)
    talk.engines["a"].own.flows.end(flow_key(3))
    talk.run(1)
    heal(talk)
    talk.run(20, 0.05)
    b = talk.engines["b"]
    assert talk.copy("b", "a") != talk.own("a")
    assert b.peers["a"].state is PeerState.IN_STEP
    assert not b.peers["a"].verified
    b.pull(talk.now)
    talk.run(3)
    assert talk.copy("b", "a") == talk.own("a")
    assert b.peers["a"].verified


def test_refresh_heals_what_was_lost_within_the_interval() -> None:
    talk = Talk("a", "b", settings=REFRESHING)
    put(talk.engines["a"].own, *range(300))
    talk.run(2)
    deaf(talk)
    put(talk.engines["a"].own, *range(200, 400), seconds=9)
    for number in range(20):
        talk.engines["a"].own.flows.end(flow_key(number))
    talk.run(1)
    heal(talk)
    talk.run(11, 0.05)
    own, copy = talk.own("a"), talk.copy("b", "a")
    assert {key: copy[key] for key in own} == own
    talk.run(20, 0.05)  # ends that were lost expire
    assert talk.copy("b", "a") == own
    assert talk.engines["b"].agreement.refresh.expired == 20
    assert talk.engines["b"].peers["a"].verified


def test_refresh_is_spread_over_the_interval() -> None:
    talk = Talk("a", "b", settings=REFRESHING)
    put(talk.engines["a"].own, *range(2000))
    talk.run(12, 0.05)
    counts = []
    for _ in range(10):
        before = talk.engines["a"].outbox.number
        talk.run(0.5)
        counts.append(talk.engines["a"].outbox.number - before)
    assert max(counts) <= 2.5 * sum(counts) / len(counts)


def test_nothing_expires_of_a_peer_that_is_silent() -> None:
    talk = Talk("a", "b", settings=REFRESHING)
    put(talk.engines["a"].own, *range(50))
    talk.run(2)
    del talk.engines["a"]
    talk.run(60, 0.1)
    assert len(talk.copy("b", "a")) == 50


def test_mixed_modes_are_refused_with_a_clear_line() -> None:
    talk = Talk("a")
    talk.settings = ONCE
    talk.start("b")
    talk.mixed = True
    put(talk.engines["a"].own, 1)
    talk.run(2)
    for engine in talk.engines.values():
        (peer,) = engine.peers.values()
        assert peer.state is PeerState.REFUSED
        assert not peer.flows
        said = [text for _, text in engine.take_messages() if "same" in text]
        assert len(said) == 1, said
        assert "'best-effort'" in said[0]
        assert "'reliable'" in said[0]
    talk.run(4)
    for engine in talk.engines.values():
        assert not engine.ready
        assert engine.lacking.endswith("is refused")
    del talk.engines["b"]
    talk.run(4)
    assert talk.engines["a"].ready
