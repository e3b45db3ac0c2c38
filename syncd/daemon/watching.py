"""`syncd watch` of the own and the peers' tables: changes go to those who watch.

In: rows that the tables note (see `flows/changes.py`), while somebody watches them.
Out: answers of the control socket, one for a batch of changes. The rule: the daemon
waits for no watcher. Each has a queue with a limit; what finds no room in it is
counted, and told where it is missing.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from syncd.daemon.commands import EVENTS, Answer
from syncd.errors import ControlError
from syncd.flows.changes import Changes, Feed, Row
from syncd.flows.record import EXPECTATION, FLOW
from syncd.replication.engine import ReplicationEngine
from syncd.replication.peer import Peer

WATCHERS: Final = 8
WAITING: Final = 16384  # changes, for each watcher
_NOTED: Final = 65536  # changes between two beats, for all watchers
_BEAT_S: Final = 0.01  # in which changes are gathered
_FOLLOW_S: Final = 0.2  # in which peers that come and go are noticed
_BATCH: Final = 256  # changes of one answer
_END_S: Final = 0.3  # for watchers to read their last line
_STOPPED: Final = "the daemon has stopped: the watch is over"


class Watcher:
    """One client: what it wants, and what waits for it."""

    def __init__(self, options: dict[str, object]) -> None:
        self.table = str(options.get("table", "own"))
        self.what = str(options.get("what", "flows"))
        self._peer = options.get("peer")
        self._kind = FLOW if self.what == "flows" else EXPECTATION
        events = options.get("events")
        self._events = EVENTS if events is None else set(str(events).split(","))
        self._queue: deque[Row | int] = deque()  # a number: so many are missing here
        self._missing = 0  # behind what is in the queue
        self._told_missing = 0
        self._news = asyncio.Event()
        self._ended = False

    @property
    def waiting(self) -> int:
        """How many changes wait to be read."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """How many changes found no room."""
        return self._told_missing + self._missing

    def put(self, rows: Sequence[Row], lost: int) -> None:
        """Queue those that are wanted, as far as there is room."""
        wanted = [row for row in rows if self._wants(row)]
        room = WAITING - len(self._queue) if wanted else 0
        if room > 0:
            self._count_missing()
            self._queue.extend(wanted[:room])
        self._missing += lost + max(len(wanted) - max(room, 0), 0)
        if self._queue or self._missing:
            self._news.set()

    def end(self) -> None:
        """The daemon stops."""
        self._ended = True
        self._news.set()

    async def take(self) -> tuple[list[Row], int, bool]:
        """Wait for the next rows; how many are missing behind them; is it over?"""
        await self._news.wait()
        rows: list[Row] = []
        queue = self._queue
        while queue and len(rows) < _BATCH:
            row = queue.popleft()
            if isinstance(row, int):
                return rows, row, False
            rows.append(row)
        if queue:
            return rows, 0, False
        self._news.clear()
        self._count_missing()
        if queue or self._ended:
            self._news.set()
        return rows, 0, self._ended and not queue

    def _count_missing(self) -> None:
        if self._missing:
            self._queue.append(self._missing)
            self._told_missing += self._missing
            self._missing = 0

    def _wants(self, row: Row) -> bool:
        owner, key, before, after = row
        if key[6] != self._kind or (owner == "") != (self.table == "own"):
            return False
        return self._peer in (None, owner) and _event(before, after) in self._events


class Watching:
    """All watchers of this daemon."""

    def __init__(self, engine: ReplicationEngine) -> None:
        self._engine = engine
        self._feed = Feed(_NOTED, self._woken)
        self._watchers: dict[Watcher, asyncio.Task[object] | None] = {}
        self._followed: dict[str, Peer] = {}
        self._beat: asyncio.TimerHandle | None = None
        self._following: asyncio.TimerHandle | None = None

    async def watch(self, options: dict[str, object]) -> AsyncGenerator[Answer, None]:
        """The changes of a table, until the daemon stops."""
        if len(self._watchers) >= WATCHERS:
            raise ControlError(f"busy with {WATCHERS} other watchers, try later")
        watcher = Watcher(options)
        self._watchers[watcher] = asyncio.current_task()
        self._attach()
        try:
            yield {"watching": watcher.table}
            ended = False
            while not ended:
                rows, missing, ended = await watcher.take()
                if rows:
                    yield {"changes": [_change(row) for row in rows]}
                if missing:
                    yield {"lost": missing}
            yield {"ok": False, "error": _STOPPED, "status": 3}
        finally:
            del self._watchers[watcher]
            self._attach()

    def status(self) -> list[dict[str, object]]:
        """Who watches, as status shows it."""
        return [
            {
                "table": watcher.table,
                "what": watcher.what,
                "waiting": watcher.waiting,
                "dropped": watcher.dropped,
            }
            for watcher in self._watchers
        ]

    async def close(self) -> None:
        """Tell all that it is over; those that do not read are left."""
        self._spread()
        for watcher in self._watchers:
            watcher.end()
        tasks = {task for task in self._watchers.values() if task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_END_S)
            for task in late:
                task.cancel()
        for timer in (self._beat, self._following):
            if timer is not None:
                timer.cancel()

    def _attach(self) -> None:
        """Let those tables tell their changes that somebody watches."""
        own, tables = self._engine.own, {watcher.table for watcher in self._watchers}
        changes = Changes(self._feed, "") if "own" in tables else None
        own.flows.changes = own.expectations.changes = changes
        if "peer" in tables:
            if self._following is None:
                self._followed = dict(self._engine.peers)
                for name, peer in self._followed.items():
                    _let_tell(peer, Changes(self._feed, name))
                self._follow()
        elif self._following is not None:
            self._following.cancel()
            self._following = None
            for peer in self._followed.values():
                _let_tell(peer, None)
            self._followed = {}

    def _follow(self) -> None:
        """Peers that came since the last time bring their tables, others take them."""
        peers, followed = self._engine.peers, self._followed
        for name, peer in list(followed.items()):
            if peers.get(name) is not peer:
                del followed[name]
                _let_tell(peer, None)
                for table in (peer.flows, peer.expectations):
                    for key, body in table.bodies.items():
                        self._feed.put((name, key, body, None))
        for name, peer in peers.items():
            if name not in followed:
                followed[name] = peer
                for table in (peer.flows, peer.expectations):
                    for key, body in table.bodies.items():
                        self._feed.put((name, key, None, body))
                _let_tell(peer, Changes(self._feed, name))
        loop = asyncio.get_running_loop()
        self._following = loop.call_later(_FOLLOW_S, self._follow)

    def _woken(self) -> None:
        if self._beat is None:
            loop = asyncio.get_running_loop()
            self._beat = loop.call_later(_BEAT_S, self._spread)

    def _spread(self) -> None:
        """Give each watcher what it wants of the changes since the last beat."""
        self._beat = None
        rows, lost = self._feed.take()
        for watcher in self._watchers:
            watcher.put(rows, lost)


def _let_tell(peer: Peer, changes: Changes | None) -> None:
    peer.flows.changes = peer.expectations.changes = changes


def _event(before: bytes | None, after: bytes | None) -> str:
    if after is None:
        return "destroy"
    return "new" if before is None else "update"


def _change(row: Row) -> list[str]:
    """What happened, to which record, what it is now or was last, whose it is."""
    owner, key, before, after = row
    body = before if after is None else after
    return [_event(before, after), key.hex(), (body or b"").hex(), owner]
