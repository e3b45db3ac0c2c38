"""What a commit is about: each key once, of the table that counts most."""

from syncd.flows.nla import tlv
from syncd.flows.selection import select
from syncd.flows.table import OwnTable, Table

K1, K2, K3, K4 = b"key 1", b"key 2", b"key 3", b"key 4"


def told(records: dict[bytes, bytes], now: float = 10.0) -> Table:
    table = Table()
    for key, body in records.items():
        table.put([key, body], now)
    return table


def owned(records: dict[bytes, bytes], *held: bytes) -> OwnTable:
    own = OwnTable()
    for key, body in records.items():
        own.put(key, body, b"id", 0)
    for key in held:
        own.end_later(key, 99.0)
    return own


def test_every_record_comes_with_its_age_any_number_of_times() -> None:
    selection = select([(told({K1: b"a", K2: b"b"}), False)], OwnTable(), 12.5)
    expected = [(K1, b"a", 2.5), (K2, b"b", 2.5)]
    assert list(selection) == list(selection) == expected
    assert len(selection) == 2


def test_the_ages_follow_their_keys_when_others_went_and_came_back() -> None:
    table = told({K1: b"a", K2: b"b", K3: b"c"})
    table.drop([K1])
    table.put([K2, b"B", K1, b"A"], 20.0)
    selection = select([(table, False)], OwnTable(), 30.0)
    assert sorted(selection) == [(K1, b"A", 10.0), (K2, b"B", 10.0), (K3, b"c", 20.0)]


def test_what_is_told_later_is_not_in_it() -> None:
    table = told({K1: b"a"})
    selection = select([(table, False)], OwnTable(), 10.0)
    table.put([K1, b"A", K2, b"b"], 11.0)
    assert list(selection) == [(K1, b"a", 0.0)]
    table.clear()
    assert list(selection) == [(K1, b"a", 0.0)]


def test_of_one_key_the_first_table_counts() -> None:
    tables = [
        (told({K1: b"first"}), False),
        (Table(), False),
        (told({K1: b"second", K2: b"second"}), False),
        (told({K2: b"third", K3: b"third"}), False),
    ]
    found = {key: body for key, body, _ in select(tables, OwnTable(), 10.0)}
    assert found == {K1: b"first", K2: b"second", K3: b"third"}
    assert len(select(tables, OwnTable(), 10.0)) == 3


def test_own_records_are_left_alone_from_the_first_outdated_table_on() -> None:
    own = owned({K1: b"own", K2: b"own"}, K2)
    newer = (told({K1: b"newer"}), False)
    outdated = (told({K1: b"old", K2: b"old", K3: b"old"}), True)
    assert {key: body for key, body, _ in select([outdated], own, 10.0)} == {
        K2: b"old",  # our kernel has forgotten it
        K3: b"old",
    }
    assert {key: body for key, body, _ in select([newer, outdated], own, 10.0)} == {
        K1: b"newer",
        K2: b"old",
        K3: b"old",
    }


def test_held_records_are_taken_when_nobody_tells_of_them() -> None:
    own = owned({K1: b"own", K2: b"own", K3: b"own"}, K1, K2)
    tables = [(told({K1: b"told"}), False)]
    assert list(select(tables, own, 10.0)) == [(K1, b"told", 0.0)]
    with_held = list(select(tables, own, 10.0, take_held=True))
    assert with_held == [(K1, b"told", 0.0), (K2, b"own", 0.0)]


def flow(status: int, seconds: int) -> bytes:
    return tlv(2, b"reply") + tlv(3, status.to_bytes(4)) + tlv(7, seconds.to_bytes(4))


def chosen(first: Table, second: Table, ranks: tuple[int, ...]) -> dict[bytes, bytes]:
    tables = [(first, False), (second, False)]
    found = list(select(tables, OwnTable(), 99.0, ranks=ranks))
    bodies = {key: body for key, body, _ in found}
    assert len(bodies) == len(found)
    return bodies


def test_of_one_rank_the_body_that_changed_later_counts() -> None:
    first = told({K1: b"old1", K2: b"new1", K3: b"only"})
    second = told({K1: b"new2", K2: b"old2", K4: b"only"}, 20.0)
    first.put([K2, b"newest"], 30.0)
    expected = {K1: b"new2", K2: b"newest", K3: b"only", K4: b"only"}
    assert chosen(first, second, (5, 5)) == expected
    assert chosen(second, first, (5, 5)) == expected


def test_a_higher_rank_counts_before_a_newer_body() -> None:
    first, second = told({K1: b"claim 7"}), told({K1: b"claim 3"}, 20.0)
    assert chosen(first, second, (7, 3)) == {K1: b"claim 7"}


def test_a_body_that_is_told_again_is_not_newer() -> None:
    first, second = told({K1: b"first"}), told({K1: b"second"}, 20.0)
    first.put([K1, b"first"], 30.0)  # a resync
    assert chosen(first, second, (5, 5)) == {K1: b"second"}


def test_at_the_same_time_the_assured_flow_and_then_the_longer_timer_counts() -> None:
    fresh, assured = flow(0x188, 400), flow(0x18E, 100)
    longer = flow(0x18E, 101)
    for one, other, best in (
        (fresh, assured, assured),
        (assured, longer, longer),
        (b"\1\0", assured, assured),
    ):
        assert chosen(told({K1: one}), told({K1: other}), (0, 0)) == {K1: best}
        assert chosen(told({K1: other}), told({K1: one}), (0, 0)) == {K1: best}
    equal = chosen(told({K1: assured}), told({K1: assured + b""}), (0, 0))
    assert equal == {K1: assured}


def test_of_three_tables_one_counts() -> None:
    tables = [(told({K1: bytes([at])}, float(at)), False) for at in (10, 30, 20)]
    found = [body for _, body, _ in select(tables, OwnTable(), 99.0, ranks=(1, 1, 1))]
    assert found == [bytes([30])]
