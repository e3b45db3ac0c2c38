"""Who watches a table hears of each change that is one."""

from syncd.flows.changes import Changes, Feed, Row
from syncd.flows.own import Own
from syncd.flows.record import CANONICAL, END, UPDATE
from syncd.flows.table import OwnTable, Table

from tests.unit.replication.talk import flow_body, flow_key, new_flow

MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7
ONE = b"\0\0\0\1"


def watched(table: Table | OwnTable, limit: int = 100) -> Feed:
    feed = Feed(limit, lambda: None)
    table.changes = Changes(feed, "fw2")
    return feed


def heard(feed: Feed) -> list[tuple[int, bytes | None, bytes | None]]:
    rows, lost = feed.take()
    assert not lost
    assert all(owner == "fw2" for owner, *_ in rows)
    return [(number_of(key), before, after) for _, key, before, after in rows]


def number_of(key: bytes) -> int:
    return next(number for number in range(9) if flow_key(number) == key)


def test_each_event_of_a_flow_is_heard_also_of_one_batch() -> None:
    own = Own()
    feed = watched(own.flows)
    changed = (UPDATE, flow_key(1), flow_body(1, 90), ONE, MASK)
    end = (END, flow_key(1), b"", ONE, 0)
    own.apply([new_flow(1), changed, changed, end, new_flow(2)], 1.0)
    assert heard(feed) == [
        (1, None, flow_body(1)),
        (1, flow_body(1), flow_body(1, 90)),
        (1, flow_body(1, 90), None),
        (2, None, flow_body(2)),
    ]


def test_what_is_taken_over_or_flushed_is_heard() -> None:
    own = Own()
    own.apply([new_flow(1), new_flow(2)], 1.0)
    feed = watched(own.flows)
    same, other = (flow_key(1), flow_body(1), 0.0), (flow_key(2), flow_body(2, 5), 0.0)
    own.flows.adopt([same, other, (flow_key(3), flow_body(3), 0.0)])
    assert heard(feed) == [
        (2, flow_body(2), flow_body(2, 5)),
        (3, None, flow_body(3)),
    ]
    own.flows.clear()
    assert [(number, after) for number, _, after in heard(feed)] == [
        *((1, None), (2, None), (3, None))
    ]


def test_an_end_that_is_held_back_is_heard_when_it_comes_true() -> None:
    own = Own()
    own.apply([new_flow(1)], 1.0)
    feed = watched(own.flows)
    own.flows.hold()
    own.apply([(END, flow_key(1), b"", ONE, 0)], 1.0)
    assert heard(feed) == []
    own.flows.release()
    assert heard(feed) == [(1, flow_body(1), None)]


def test_a_resync_of_a_peer_shows_what_truly_changes() -> None:
    table = Table()
    table.put([x for n in (1, 2, 3) for x in (flow_key(n), flow_body(n))], 1.0)
    feed = watched(table)
    table.begin_sweep()
    told = [flow_key(1), flow_body(1), flow_key(2), flow_body(2, 7)]
    table.put([*told, flow_key(4), flow_body(4), flow_key(4), flow_body(4, 9)], 2.0)
    table.end_sweep()
    assert heard(feed) == [
        (2, flow_body(2), flow_body(2, 7)),
        (4, None, flow_body(4)),
        (4, flow_body(4), flow_body(4, 9)),
        (3, flow_body(3), None),
    ]
    table.drop([flow_key(3)])
    assert heard(feed) == []
    assert table.clear() == 3
    assert [number for number, _, after in heard(feed) if after is None] == [1, 2, 4]


def test_a_feed_keeps_so_many_counts_the_others_and_wakes_once() -> None:
    woken: list[int] = []
    feed = Feed(2, lambda: woken.append(1))
    rows: list[Row] = [("", flow_key(n), None, flow_body(n)) for n in range(5)]
    for row in rows:
        feed.put(row)
    assert feed.take() == (rows[:2], 3)
    assert feed.take() == ([], 0)
    feed.put(("", flow_key(1), flow_body(1), flow_body(1)))  # changes nothing
    assert woken == [1]
    feed.put(rows[4])
    assert woken == [1, 1]
