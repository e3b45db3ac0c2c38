"""Numbers only go up; gaps, restarts and resyncs are told apart."""

from syncd.replication.inbox import SATISFIED, Inbox


def opened() -> Inbox:
    inbox = Inbox()
    inbox.open(7, 10)
    return inbox


def test_frames_in_order_are_taken() -> None:
    inbox = opened()
    assert inbox.accept(11)
    assert inbox.accept(12)
    assert inbox.lost == []


def test_a_gap_is_remembered_and_a_late_frame_dropped() -> None:
    inbox = opened()
    assert inbox.accept(14)
    assert inbox.lost == [(11, 13)]
    assert inbox.lost_frames == 3
    assert not inbox.accept(12)
    assert not inbox.accept(14)
    assert inbox.late_frames == 2


def test_gaps_below_the_floor_are_forgotten() -> None:
    inbox = opened()
    inbox.accept(14)
    inbox.accept(20)
    inbox.forget_below(13)
    assert inbox.lost == [(13, 13), (15, 19)]
    inbox.forget_below(30)
    assert inbox.lost == []


def test_too_many_gaps_ask_for_everything() -> None:
    inbox = opened()
    inbox.begins(1)
    inbox.completes(1)
    for number in range(12, 400, 2):
        inbox.accept(number)
    assert len(inbox.lost) <= 128
    assert inbox.wants == 1


def with_forgotten_gaps() -> Inbox:
    inbox = opened()
    for number in range(12, 300, 2):
        inbox.accept(number)
    assert inbox.holes
    return inbox


def test_a_pass_whose_begin_may_be_forgotten_does_not_fulfil_the_wish() -> None:
    inbox = with_forgotten_gaps()
    assert not inbox.begins(3)
    assert not inbox.completes(3)
    assert inbox.wants == 3
    assert inbox.begins(4)
    assert inbox.completes(4)


def test_a_pass_that_was_lost_and_forgotten_as_a_whole_is_asked_for_again() -> None:
    inbox = with_forgotten_gaps()
    assert not inbox.completes(3)  # so the sender says: it takes no gap for lost
    assert inbox.wants == 3  # not 0: what is complete there is never sent again
    assert not inbox.begins(4)  # it may have begun among them
    assert inbox.begins(5)
    assert inbox.completes(5)
    assert inbox.wants == SATISFIED


def test_a_wanted_pass_begins_once_and_completes() -> None:
    inbox = opened()
    assert inbox.begins(3)
    assert not inbox.begins(3)
    assert not inbox.completes(2)
    assert inbox.completes(3)
    assert inbox.wants == SATISFIED
    assert not inbox.begins(4)


def test_a_pass_that_began_before_the_wish_does_not_fulfil_it() -> None:
    inbox = opened()
    inbox.begins(3)
    inbox.want_resync()
    assert not inbox.begins(3)
    assert not inbox.completes(3)
    assert inbox.begins(4)
    assert inbox.completes(4)


def test_a_new_service_is_a_wish_for_everything() -> None:
    inbox = opened()
    inbox.served(1)
    inbox.begins(1)
    inbox.completes(1)
    inbox.served(1)
    assert inbox.wants == SATISFIED
    inbox.served(2)
    assert inbox.wants == 1


def test_an_ended_life_is_known() -> None:
    inbox = opened()
    inbox.open(8, 1)
    assert inbox.is_ended(7)
    assert not inbox.is_ended(8)
    assert inbox.highest == 1
    assert inbox.wants == 0
