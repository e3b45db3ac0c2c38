"""What warm standby wrote into this kernel is not own until it lives here."""

from syncd.flows.own import Own
from syncd.flows.planted import GONE_S, SHORT_S, Planted
from syncd.flows.record import (
    BY_PROGRAM,
    DUMP,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
    plain_key,
    with_zone,
)

from tests.unit.flows.recorded import announced
from tests.unit.flows.test_table import MASK, ONE, TWO
from tests.unit.replication.talk import flow_body, flow_key, new_flow, put

BODY = flow_body(1)
KEY = flow_key(1)


def _planted() -> Own:
    own = Own()
    own.plant([(KEY, BODY)])
    return own


def test_a_dump_or_a_reply_does_not_make_a_planted_flow_own() -> None:
    own = _planted()
    own.begin_dump()
    own.fill([(DUMP, KEY, BODY, ONE, MASK)])
    own.end_dump(1.0)
    own.apply([(DUMP, KEY, BODY, ONE, MASK)], 2.0)
    assert not own.flows.bodies
    assert set(own.planted) == {KEY}
    assert not own.take_uprooted()


def test_an_update_makes_it_own_by_a_lookup() -> None:
    own = _planted()
    own.apply([(UPDATE, KEY, BODY, ONE, MASK)], 1.0)
    assert list(own.lookups) == [KEY]
    own.apply([(DUMP, KEY, BODY, ONE, MASK)], 1.0)
    assert own.flows.bodies == {KEY: BODY}
    assert not own.planted


def test_an_update_by_a_program_does_not_make_it_own() -> None:
    own = _planted()
    own.apply([(UPDATE, KEY, BODY, ONE, MASK | BY_PROGRAM)], 1.0)
    assert not own.lookups
    assert set(own.planted) == {KEY}
    assert own.take_uprooted() == [KEY]


def test_its_end_is_told_to_nobody_and_only_the_kernel_knows_if_it_is_gone() -> None:
    own = _planted()
    own.apply([(END, KEY, b"", ONE, 0)], 1.0)
    assert not own.flows.marks
    assert own.take_uprooted() == [KEY]
    assert not own.take_uprooted()
    assert set(own.planted) == {KEY}


def test_a_new_flow_on_its_tuple_is_own() -> None:
    own = _planted()
    own.apply([(END, KEY, b"", ONE, 0), (NEW, KEY, BODY, TWO, MASK)], 1.0)
    assert own.flows.bodies == {KEY: BODY}
    assert not own.planted
    assert not own.take_uprooted()


def test_one_that_a_dump_does_not_show_is_uprooted() -> None:
    own = _planted()
    own.plant([(flow_key(2), BODY)])
    own.begin_dump()
    own.plant([(flow_key(3), BODY)])  # behind the place where the dump is
    own.fill([(DUMP, flow_key(2), flow_body(2), ONE, MASK)])
    own.end_dump(1.0)
    assert own.take_uprooted() == [KEY]
    assert not own.take_uprooted()


def test_one_that_was_planted_again_during_the_dump_stays() -> None:
    own = _planted()
    own.begin_dump()
    own.apply([(END, KEY, b"", ONE, 0)], 1.0)
    own.plant([(KEY, BODY)])
    own.take_uprooted()
    own.end_dump(1.0)
    assert set(own.planted) == {KEY}
    assert not own.take_uprooted()


def test_own_flows_beside_planted_ones_are_as_ever() -> None:
    own = _planted()
    put(own, 2)
    own.apply([new_flow(3), (END, flow_key(2), b"", ONE, 0)], 1.0)
    assert list(own.flows.bodies) == [flow_key(3)]
    own.begin_dump()
    own.fill([(DUMP, KEY, BODY, ONE, MASK)])
    assert own.end_dump(1.0) == 1
    assert set(own.planted) == {KEY}


def test_a_planted_expectation_is_known_by_the_name_that_the_kernel_gives_it() -> None:
    _, key, body, ident, mask = announced("ftp4_passive")
    zoned = with_zone(key, b"\0\7")
    assert plain_key(zoned) == plain_key(key) == key
    own = Own()
    own.plant([(zoned, body)])
    own.begin_dump()
    own.fill([(EXP_DUMP, key, body, ident, mask)])
    own.end_dump(1.0)
    assert not own.expectations.bodies
    own.apply([(EXP_END, key, b"", ident, 0)], 2.0)
    assert own.take_uprooted() == [key]
    own.plant([(zoned, body)])
    own.apply([(EXP_NEW, key, body, ident, mask)], 3.0)
    assert list(own.expectations.bodies) == [key]
    assert not own.planted


def test_the_zone_of_an_expectation_is_known_when_it_is_planted_again() -> None:
    new = announced("ftp4_passive")
    key, zoned, body = new[1], with_zone(new[1], b"\0\7"), new[2]
    register = Planted(Own(), 600)
    for at in (1000.0, 1001.0):
        register.note([(zoned, body)], 300, at)
        assert register.name(key) == zoned
        register.forget(zoned)
        assert register.name(key) == key


def test_of_many_copies_of_gre_each_is_looked_at() -> None:
    """Seed 7019 of --warm: their timer of days put all but the first into the past."""
    own, (key, body) = Own(), (KEY, BODY)
    gre = [key[:36] + b"\x2f" + key[37:-1] + bytes([n]) for n in range(200)]
    register = Planted(own, 600)
    register.note([(key, body)], SHORT_S, 1000.0)
    assert list(register.due(1001.0)) == []
    for one in gre:
        assert register.timer_s(one, body) > 600
        register.note([(one, body)], register.timer_s(one, body), 1001.0)
    assert set(gre) <= set(register.due(1001.0 + 300.0))


def test_a_copy_that_nobody_tells_is_looked_at_until_its_timer_has_run_out() -> None:
    own = Own()
    register = Planted(own, 600)
    register.note([(KEY, BODY)], SHORT_S, 1000.0)
    looks = []
    for at in range(1000, 1000 + SHORT_S + GONE_S + 2):
        for key in register.due(float(at)):
            looks.append(at)
            register.postpone(key)
    assert 3 <= len(looks) <= 8
    assert looks[-1] >= 1000 + SHORT_S + GONE_S - 1
