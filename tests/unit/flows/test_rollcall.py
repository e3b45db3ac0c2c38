"""What a dump has to show is noted in parts, and what it did not show is left."""

from syncd.flows.rollcall import RollCall

KEYS = [bytes((number,)) for number in range(10)]


def test_it_is_noted_in_parts() -> None:
    roll = RollCall()
    roll.begin(KEYS)
    assert roll.note(4)
    assert len(roll.unseen) == 4
    assert roll.note(4)
    assert not roll.note(4)
    assert roll.unseen == set(KEYS)


def test_what_is_shown_before_all_is_noted_counts() -> None:
    roll = RollCall()
    roll.begin(KEYS)
    roll.note(4)
    roll.saw(KEYS[0])
    assert roll.unseen == set(KEYS[1:])


def test_what_was_not_shown_is_taken_once() -> None:
    roll = RollCall()
    roll.begin(KEYS)
    for key in KEYS[:5]:
        roll.saw(key)
    left = roll.take(3)
    left += roll.take(3)
    assert sorted(left) == KEYS[5:]
    assert not roll.take(3)


def test_another_dump_begins_with_its_own_roll() -> None:
    roll = RollCall()
    roll.begin(KEYS)
    roll.note(3)
    roll.begin(KEYS[:1])
    assert roll.take(99) == KEYS[:1]
