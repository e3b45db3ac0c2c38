"""What a commit is about: each key once, of the table that counts most."""

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
