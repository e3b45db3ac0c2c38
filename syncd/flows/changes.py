"""What changes in the tables, for who watches: noted where it happens.

In: from a table, a key with the body that it had and the body that it has, None for
none. Out: rows in the order of the changes, of all tables that note here. The rule of
the room: the tables wait for nobody. A row that finds no room is counted, and where
nobody watches a table asks for nothing but None.
"""

from collections.abc import Callable

# The owner (a peer's name, "" for this node), key, body before and after.
Row = tuple[str, bytes, bytes | None, bytes | None]


class Feed:
    """Rows that wait to be shown; `wake` is called when the first one comes."""

    __slots__ = ("_limit", "_lost", "_rows", "_wake")

    def __init__(self, limit: int, wake: Callable[[], None]) -> None:
        self._limit = limit
        self._wake = wake
        self._rows: list[Row] = []
        self._lost = 0

    def put(self, row: Row) -> None:
        """Keep one change; what is as it was is none."""
        if row[2] == row[3]:
            return
        if not self._rows:
            self._wake()
        if len(self._rows) < self._limit:
            self._rows.append(row)
        else:
            self._lost += 1

    def take(self) -> tuple[list[Row], int]:
        """The rows since the last time, and how many more found no room."""
        taken = self._rows, self._lost
        self._rows, self._lost = [], 0
        return taken


class Changes:
    """What the tables of one owner tell their changes to."""

    __slots__ = ("_feed", "_owner")

    def __init__(self, feed: Feed, owner: str) -> None:
        self._feed = feed
        self._owner = owner

    def note(self, key: bytes, before: bytes | None, after: bytes | None) -> None:
        """A record began, changed, or ended."""
        self._feed.put((self._owner, key, before, after))
