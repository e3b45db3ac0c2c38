"""The shelves: key -> body, one `Table` per owner and kind of record.

In: records that `record.py` has read (own table), or keys and bodies that a frame
carried (a peer's table). Out: the newest body of every key, and for the own tables
the change marks: which keys a peer has not been told about in their present state, and
what was told of each of them last.

`own.py` joins this node's two tables; here each one is for itself.

The rule of the room: a table holds state, not history. An end is an absent key with
a change mark; a mark says "send whatever is there now". What was told of a key without
a mark is its body. A key that nobody was told about (mark `NEW_TO_PEERS`) and that ends
again leaves no trace.
"""

import math
from collections.abc import Iterable, Sequence

from syncd.flows.changes import Changes
from syncd.flows.digest import Digest
from syncd.flows.likeness import OFFLOADED, alike, completed
from syncd.flows.masquerade import dies_with_address
from syncd.flows.record import (
    CTA_TIMEOUT,
    FLOW,
    Record,
    mask_of,
    status_of,
)
from syncd.flows.rollcall import RollCall

# The value of a change mark: the body that was told last, or one of these.
NEW_TO_PEERS = None  # no peer was ever sent this key
ENDED_AT_PEERS = b""  # its end was told, and maybe not heard

_TIMEOUT_BIT = 1 << CTA_TIMEOUT
_ANY_ATTRIBUTE = (1 << 32) - 1  # no update has them all: the next one is merged


class Table:
    """A peer's records of one kind, as they were told to us.

    `bodies` maps key to body. `told_s` maps key to the whole second (of the local
    monotonic clock) at which the body came: a timeout is estimated from it. `stale`
    holds, during a resync, the keys that have not been told again yet. `digest` is over
    the bodies; the tables of one owner share it. `touched`, if somebody wants to know,
    gets the keys that are stored anew or dropped (not those that are cleared); so do
    `changes`, with what they were and are.
    """

    __slots__ = ("bodies", "changes", "digest", "stale", "told_s", "touched")

    def __init__(self, digest: Digest | None = None) -> None:
        self.digest = Digest() if digest is None else digest
        self.bodies: dict[bytes, bytes] = {}
        self.told_s: dict[bytes, int] = {}
        self.stale: set[bytes] = set()
        self.touched: set[bytes] | None = None
        self.changes: Changes | None = None

    def __len__(self) -> int:
        return len(self.bodies)

    def put(self, flat: list[bytes], now: float) -> None:
        """Store `[key, body, key, body, ...]`."""
        if self.changes is not None:
            self._note(flat)
        changed = self.digest.store(self.bodies, flat)
        told_s, second = self.told_s, int(now)
        for key in changed:
            told_s[key] = second
        if self.touched is not None:
            self.touched.update(changed)
        if self.stale:
            self.stale.difference_update(flat[::2])

    def _note(self, flat: Sequence[bytes]) -> None:
        """Tell of what is about to be stored; a key may come twice."""
        assert self.changes is not None
        stored: dict[bytes, bytes] = {}
        for key, body in zip(flat[::2], flat[1::2], strict=True):
            before = stored.get(key) or self.bodies.get(key)
            self.changes.note(key, before, body)
            stored[key] = body

    def _note_gone(self, gone: Iterable[tuple[bytes, bytes]]) -> None:
        assert self.changes is not None
        for key, body in gone:
            self.changes.note(key, body, None)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget the keys; one that is not there is fine."""
        gone, bodies, told_s, stale = [], self.bodies, self.told_s, self.stale
        for key in keys:
            body = bodies.pop(key, None)
            if body is not None:
                gone.append((key, body))
                del told_s[key]
                if stale:
                    stale.discard(key)
        self.digest.remove(gone)
        if self.changes is not None:
            self._note_gone(gone)
        if self.touched is not None:
            self.touched.update([key for key, _ in gone])

    def snapshot(self) -> tuple[list[bytes], list[bytes], list[int]]:
        """Keys, bodies and times as they are now, in one order.

        Both dictionaries get and lose their keys together, so they have one order.
        """
        bodies = self.bodies
        return list(bodies), list(bodies.values()), list(self.told_s.values())

    def begin_sweep(self) -> None:
        """From now on a key counts as stale until it is told again."""
        self.stale = set(self.bodies)

    def end_sweep(self) -> list[tuple[bytes, bytes]]:
        """Forget what was not told again since `begin_sweep`; return it."""
        stale, self.stale = self.stale, set()
        swept = [(key, self.bodies[key]) for key in stale]
        self.drop(stale)
        return swept

    def clear(self) -> int:
        """Forget all; return how many records that were."""
        count = len(self.bodies)
        self.digest.remove(self.bodies.items())
        if self.changes is not None:
            self._note_gone(self.bodies.items())
        self.bodies.clear()
        self.told_s.clear()
        self.stale = set()
        return count

    def differing(self, flat: Sequence[bytes]) -> int:
        """How many of `[key, body, ...]` are not stored just like that."""
        get = self.bodies.get
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return sum(get(key) != body for key, body in pairs)


class OwnTable:
    """This kernel's records of one kind, kept up to date from its messages.

    `facts` maps key to (CTA_ID bytes or b"", bit set of the attributes in the body).
    `marks` maps a changed key to what was told of it last (see above). `held` are ends
    that are held back, with the time at which they come true: for good while `holding`
    (the node has given its traffic away, what its kernel forgets lives on elsewhere),
    for seconds when the kernel forgot a flow that may have died with an address.
    Who keeps accounts asks for `adopted`, the keys that were taken over and have not
    ended, and `missed`, what a dump did not show although no event told its end. A warm
    standby asks for `left`, the keys that are own no more. Who watches the table gives
    it `changes` to tell each change to.
    """

    __slots__ = (
        "adopted",
        "bodies",
        "changes",
        "disturbed",
        "facts",
        "gone",
        "held",
        "holding",
        "left",
        "marks",
        "missed",
        "owed",
        "roll",
        "touched",
    )

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self.facts: dict[bytes, tuple[bytes, int]] = {}
        self.marks: dict[bytes, bytes | None] = {}
        self.owed = 0  # so many of the first marks hold what a peer is known to miss
        self.held: dict[bytes, float] = {}
        self.holding = False
        self.touched: set[bytes] | None = None  # by events, since a dump began
        self.disturbed: set[bytes] | None = None  # since a commit began
        self.roll = RollCall()  # of the dump that is going on
        self.gone = 0  # records that it did not show
        self.adopted: set[bytes] | None = None
        self.missed: list[tuple[bytes, bytes]] | None = None  # keys and bodies
        self.left: list[bytes] | None = None
        self.changes: Changes | None = None

    def __len__(self) -> int:
        return len(self.bodies)

    def put(self, key: bytes, body: bytes, ident: bytes, mask: int) -> None:
        """Store and mark one record as the kernel has it now."""
        if key not in self.marks:
            self.marks[key] = self.bodies.get(key, NEW_TO_PEERS)
        if self.changes is not None:
            self.changes.note(key, self.bodies.get(key), body)
        self.bodies[key] = body
        self.facts[key] = (ident, mask)
        if self.held:
            self.held.pop(key, None)

    def end(self, key: bytes) -> None:
        """The kernel has no such record any more; a part of a dump may be older."""
        if self.holding:
            self._date(key)
            if key in self.bodies:
                self.held[key] = math.inf
            return
        self.end_for_all(key)

    def end_for_all(self, key: bytes) -> None:
        """The same; who carries its traffic has ended it, so nothing holds it back."""
        self._date(key)
        self.disown(key)

    def _date(self, key: bytes) -> None:
        """What a commit or a dump knows of it is old."""
        if self.disturbed is not None:
            self.disturbed.add(key)
        if self.touched is not None:
            self.touched.add(key)

    def disown(self, key: bytes) -> None:
        """From now on the record is none of ours, whether the kernel has it or not."""
        self.held.pop(key, None)
        body = self.bodies.pop(key, None)
        if body is None:
            return
        if self.changes is not None:
            self.changes.note(key, body, None)
        del self.facts[key]
        if self.left is not None:
            self.left.append(key)
        if self.marks.setdefault(key, body) is NEW_TO_PEERS:
            del self.marks[key]

    def ident(self, key: bytes) -> bytes:
        """The CTA_ID of the record, b"" if that is not known."""
        return self.facts[key][0] if key in self.facts else b""

    def take_left(self) -> list[bytes]:
        """Keys that are own no more, since this was last asked."""
        left, self.left = self.left or [], []
        return left

    def mark_again(self, keys: Iterable[bytes]) -> None:
        """A peer has not heard what was told of them: tell it once more."""
        marks, bodies = self.marks, self.bodies
        for key in keys:
            if marks.setdefault(key, bodies.get(key, ENDED_AT_PEERS)) is NEW_TO_PEERS:
                marks[key] = ENDED_AT_PEERS
        self.owe_all()

    def owe_all(self) -> None:
        """What is marked now is missed by a peer; what will be marked comes behind."""
        self.owed = len(self.marks)

    def told(self, key: bytes) -> bytes:
        """What was told of a key last, b"" if nothing or its end."""
        if key in self.marks:
            return self.marks[key] or b""
        return self.bodies.get(key, b"")

    def end_later(self, key: bytes, due: float) -> None:
        """The kernel has no such record any more, but it may live on elsewhere."""
        if key in self.bodies:
            self.held[key] = math.inf if self.holding else due

    def ended(self, key: bytes, ident: bytes, due: float = 0.0) -> None:
        """A DESTROY event: it counts only for the entry with that CTA_ID.

        With a `due` time the end is held back until then.
        """
        fact = self.facts.get(key)
        if fact is not None and (fact[0] == ident or not fact[0] or not ident):
            if due:
                self.end_later(key, due)
            else:
                self.end(key)

    def is_other(self, key: bytes, ident: bytes) -> bool:
        """Is the entry that we know another one than that with this CTA_ID?"""
        fact = self.facts.get(key)
        return fact is not None and ident not in (b"", fact[0]) and fact[0] != b""

    def refresh(self, record: Record) -> None:
        """A reply to a GET: the present truth; what moves by itself is no change."""
        _, key, body, ident, mask = record
        old = self.bodies.get(key)
        if old is not None:
            if not mask & _TIMEOUT_BIT and key[6] == FLOW:
                body, mask = self._completed(key, old, record)
            if alike(key, old, body):
                self.facts[key] = (ident, mask)
                if self.held:
                    self.held.pop(key, None)
                return
        self.put(key, body, ident, mask)

    def fill(self, record: Record) -> bool:
        """A part of a dump; False if only the kernel can say what is true now.

        An event since the dump began and the dump may each know what the other does
        not: that flow has to be looked up.
        """
        key = record[1]
        self.roll.saw(key)
        if self.touched is None or key not in self.touched:
            self.refresh(record)
            return True
        return key not in self.bodies or self.agrees(record)

    def agrees(self, record: Record, lenient: bool = False) -> bool:
        """Is this what is stored of the key, but for what moves by itself?"""
        _, key, body, _, mask = record
        old = self.bodies.get(key)
        if old is None:
            return False
        if not mask & _TIMEOUT_BIT and key[6] == FLOW:
            body, _ = self._completed(key, old, record)
        return alike(key, old, body, lenient)

    def _completed(self, key: bytes, old: bytes, record: Record) -> tuple[bytes, int]:
        """Body and mask of a flow that was dumped without its timer."""
        _, _, body, ident, mask = record
        known = self.facts[key][0]
        if status_of(body) & OFFLOADED and (known == ident or not known):
            body = completed(old, body)
            mask = mask_of(body)
        return body, mask

    def begin_dump(self) -> None:
        """A dump starts: note what events touch, they are newer than the dump."""
        self.touched = set()
        self.gone = 0
        self.roll.begin(self.bodies)

    def sweep(self, limit: int, due: float = 0.0) -> bool:
        """End some of what the complete dump did not show; is there more to do?

        Flows that may have died with an address are held back until `due`.
        """
        touched, held, bodies = self.touched or set(), self.held, self.bodies
        keys = self.roll.take(limit)
        for key in keys:
            if key in touched or key in held or key not in bodies:
                continue
            self.gone += 1
            if self.missed is not None:
                self.missed.append((key, bodies[key]))
            if due and dies_with_address(bodies[key]):
                self.end_later(key, due)
            else:
                self.end(key)
        return bool(keys)

    def end_dump(self, due: float = 0.0) -> int:
        """The dump is complete: sweep the rest; return how many it did not show."""
        while self.sweep(len(self.bodies) + 1, due):
            pass
        self.abort_dump()
        return self.gone

    def abort_dump(self) -> None:
        """No dump is going on any more."""
        self.touched = None
        self.roll.begin(())

    def hold(self) -> None:
        """From now on hold every end back, until `release`."""
        self.holding = True
        self.held = dict.fromkeys(self.held, math.inf)

    def release(self) -> int:
        """Carry out the ends that were held back; return how many."""
        self.holding = False
        return self.release_due(math.inf)

    def release_due(self, now: float) -> int:
        """Carry out the held ends whose time has come; return how many."""
        due = [key for key, at in self.held.items() if at <= now]
        for key in due:
            self.end(key)
        return len(due)

    def adopt(self, records: Sequence[tuple[bytes, bytes, float]]) -> None:
        """Records (key, body, age) that were just put into this kernel.

        Their CTA_ID is not known; the next update of each is merged. What the kernel
        told of a disturbed one is newer: that it ended, too, and peers have to know.
        """
        keys = [key for key, _, _ in records]
        self.mark_again(keys)
        if self.disturbed:
            disturbed, bodies = self.disturbed, self.bodies
            if self.left is not None:
                self.left += [k for k in keys if k in disturbed and k not in bodies]
            records = [record for record in records if record[0] not in disturbed]
            keys = [key for key, _, _ in records]
        if self.changes is not None:
            for key, body, _ in records:
                self.changes.note(key, self.bodies.get(key), body)
        self.bodies.update([record[:2] for record in records])
        self.facts.update(dict.fromkeys(keys, (b"", _ANY_ATTRIBUTE)))
        if self.adopted is not None:
            self.adopted.update(keys)
        if self.held:
            for key in keys:
                self.held.pop(key, None)

    def clear(self) -> int:
        """Forget all; peers are told that each one ended."""
        count = len(self.bodies)
        self.mark_again(self.bodies)
        if self.changes is not None:
            for key, body in self.bodies.items():
                self.changes.note(key, body, None)
        self.bodies.clear()
        self.facts.clear()
        self.held.clear()
        return count
