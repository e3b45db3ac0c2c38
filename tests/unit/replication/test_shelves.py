"""Keys are found in pieces, and none is missed that changes meanwhile."""

import random

from syncd.flows.digest import ALL_BUCKETS, BUCKETS, bucket_of, short_name
from syncd.flows.table import Table
from syncd.replication.shelves import PIECE, Shelves


def key_of(number: int) -> bytes:
    return number.to_bytes(8)


def put(table: Table, numbers: range) -> None:
    table.put([x for n in numbers for x in (key_of(n), b"body")], 1.0)


def there(table: Table, keys: set[bytes]) -> set[bytes]:
    return keys & table.bodies.keys()


def test_every_key_is_on_its_shelf_though_the_table_changes_all_the_time() -> None:
    table = Table()
    put(table, range(3 * PIECE))
    shelves = Shelves(table.digest, list(table.bodies), ALL_BUCKETS)
    draw, steps = random.Random(5), 0
    while not shelves.ready:
        shelves.step()
        steps += 1
        fresh = 10**6 * steps
        put(table, range(fresh, fresh + 500))
        table.drop([key_of(draw.randrange(3 * PIECE)) for _ in range(500)])
        put(table, range(draw.randrange(PIECE), PIECE, 97))
    assert steps == 3  # pieces
    found = [there(table, shelves.keys(bucket)) for bucket in range(BUCKETS)]
    assert set().union(*found) == table.bodies.keys()
    assert all(
        bucket_of(short_name(key)) == bucket
        for bucket, keys in enumerate(found)
        for key in keys
    )


def test_a_span_is_in_order_and_has_what_came_after_it_was_first_read() -> None:
    table = Table()
    put(table, range(5000))
    shelves = Shelves(table.digest, list(table.bodies), 0b11)
    shelves.step()
    last = (2 << 26) - 1
    span = (1 << 20, last)
    assert len(shelves.span(span)) > 100
    put(table, range(5000, 9000))
    names = sorted((short_name(key), key) for key in table.bodies)
    assert shelves.span(span) == [n for n in names if span[0] <= n[0] <= last]
    assert shelves.span((last + 1, (1 << 32) - 1)) == []  # no shelf for these


def test_what_changes_again_and_again_fills_no_shelf() -> None:
    table = Table()
    put(table, range(2000))
    shelves = Shelves(table.digest, list(table.bodies), 1)
    shelves.step()
    for turn in range(200):
        table.put([x for n in range(2000) for x in (key_of(n), b"%d" % turn)], 1.0)
        shelves.step()
    assert len(shelves._shelves[0]) < 1400


def test_nothing_is_noted_for_shelves_that_are_not_needed() -> None:
    table = Table()
    shelves = Shelves(table.digest, [], 1)
    shelves.close()
    put(table, range(5))
    assert table.digest.watch is None
