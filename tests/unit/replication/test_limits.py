"""Every waiting place of an engine has a bound: "What waits where" in operation.md."""

import pytest
from syncd.replication import agreement
from syncd.replication.inbox import SATISFIED, Inbox

from tests.unit.replication.talk import Talk, flow_key, put


def test_log_lines_that_nobody_takes_are_bounded() -> None:
    engine = Talk("a").engines["a"]
    for number in range(2000):
        engine.agreement.say("info", f"line {number}")
        engine.agreement.say_once("reason", f"source {number}", "line")
    assert len(engine.take_messages()) == 256
    for number in range(2000):
        engine.agreement.say_once("other", f"source {number}", "line")
    assert len(engine.take_messages()) <= 256


def test_too_many_lookups_become_one_reading_of_the_kernel() -> None:
    engine = Talk("a").engines["a"]
    engine.own.lookups.update(dict.fromkeys(map(flow_key, range(33_000))))
    engine.kernel_events([], 1.0)
    assert engine.dump_wanted
    assert not engine.take_lookups()


def test_a_history_of_too_many_losses_becomes_a_resync() -> None:
    inbox = Inbox()
    inbox.open(1, 1)
    inbox.wants = SATISFIED
    for number in range(3, 1000, 2):
        inbox.accept(number)
        assert len(inbox.lost) <= 128
    assert inbox.wants != SATISFIED


def test_deletions_that_nobody_carries_out_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agreement, "_ENDED_LIMIT", 5)
    talk = Talk("a", "b")
    talk.engines["a"].promote(talk.now)
    put(talk.engines["a"].own, *range(40))
    put(talk.engines["b"].own, *range(40))  # copies from an earlier time
    talk.run(1)
    for number in range(40):
        talk.engines["a"].own.flows.end(flow_key(number))
        talk.run(0.02)
    assert len(talk.engines["b"].take_ended_elsewhere()) == 6
    assert not talk.copy("b", "a")


def test_without_acknowledgements_marks_are_one_for_each_flow() -> None:
    talk = Talk("a", "b")
    talk.run(1)
    talk.deliver = lambda sender, _receiver, _datagram: sender == "a"
    for step in range(100):
        put(talk.engines["a"].own, *range(50), seconds=step % 60 + 1)
        talk.turn()
        own, outbox = talk.engines["a"].own, talk.engines["a"].outbox
        assert len(own.flows.marks) <= 50
        assert len(outbox.unacked) <= talk.settings.window_frames + 1
