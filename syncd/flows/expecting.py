"""The last part of a commit: expectations, when their masters are in the kernel.

In: expectations with the time since they were told, the kernel's answers. Out:
messages, each with its `Trial`, and what became of it.

The rules: one lives here no longer than it would have where it came from; what the
kernel holds alike only gets its timer, what it holds otherwise (left over from before,
or expected by another master) is replaced. The kernel takes a timer only for what is
there, and flags only for what is not.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from syncd.errors import RecordError
from syncd.flows import nla, restore, wildcard
from syncd.flows.batch import TimedRecord
from syncd.flows.likeness import alike
from syncd.flows.reader import RecordReader
from syncd.flows.record import CTA_EXPECT_ZONE, CTA_ZONE, master_of

MASTER_ABSENT = "master absent"
ENDED = "ended at the peer, by its timer"
MASTER_WITHOUT_HELPER = "master without helper"
EXPECTATIONS_FULL = "expectation table full"
MALFORMED = "malformed"
_TRIES = 6

_REASONS = {
    errno.ENOENT: MASTER_ABSENT,
    errno.EOPNOTSUPP: MASTER_WITHOUT_HELPER,
    errno.EMFILE: EXPECTATIONS_FULL,
}

Failure = tuple[TimedRecord, str, str]


class Ask(Enum):
    """What is asked about one expectation."""

    MASTER = auto()  # the flow that a wildcard belongs to
    CREATE = auto()
    LOOK_UP = auto()
    REPLACE = auto()  # delete what is there, then create
    TIME = auto()  # set the timer of what is there


_STEPS = {
    (Ask.CREATE, errno.EEXIST): Ask.LOOK_UP,
    (Ask.CREATE, errno.EBUSY): Ask.REPLACE,
    (Ask.CREATE, errno.EALREADY): Ask.REPLACE,
    (Ask.LOOK_UP, errno.ENOENT): Ask.CREATE,
    **{(ask, errno.ENOBUFS): ask for ask in Ask},  # an answer was lost
}


@dataclass(slots=True)
class Trial:
    """One expectation on its way."""

    record: TimedRecord
    ask: Ask
    known: bool = False  # the kernel had it
    tries: int = 0


class Tally(Protocol):
    """Where successes are counted."""

    created: int
    updated: int
    unchanged: int


class Expecting:
    """Puts expectations into a kernel that has their masters."""

    def __init__(
        self,
        tally: Tally,
        wildcards: wildcard.Wildcards,
        timeout_s: Callable[[TimedRecord], int],
    ) -> None:
        self._tally = tally
        self._wildcards = wildcards
        self._timeout_s = timeout_s
        self._reader = RecordReader()
        self._waiting: deque[Trial] = deque()
        # What is not put there on purpose, and why: no failure, but it is not there.
        self.omitted: dict[bytes, str] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, record: TimedRecord) -> None:
        """One more to put there, once the flows are."""
        word = self._wildcards.word
        if word == wildcard.ACCEPT or not wildcard.is_wildcard(record[0]):
            self._waiting.append(Trial(record, Ask.CREATE))
        elif word == wildcard.REFUSE:
            self._omit(record, wildcard.BY_POLICY)
        else:
            self._waiting.append(Trial(record, Ask.MASTER))

    def messages(
        self, limit: int, take: Callable[[int], int]
    ) -> tuple[list[tuple[bytes, Trial]], list[Failure]]:
        """What to send now, numbered by `take`; and what cannot be sent."""
        sent: list[tuple[bytes, Trial]] = []
        failed: list[Failure] = []
        while self._waiting and len(sent) < limit - 1:
            trial = self._waiting.popleft()
            trial.tries += 1
            try:
                if _left_s(trial.record) > 0:
                    built = self._build(trial, take(2))
                    sent += [(message, trial) for message in built]
                else:
                    self._tally.unchanged += 1
                    self.omitted[trial.record[0]] = ENDED
            except RecordError:
                failed.append((trial.record, MALFORMED, ""))
        return sent, failed

    def report(
        self,
        trials: Sequence[Trial],
        refusals: Sequence[tuple[int, int, str]],
        replies: Sequence[tuple[int, bytes]],
    ) -> Iterator[Failure]:
        """The kernel's answers, by index; yields what failed."""
        codes = {index: (code, text) for index, code, text in refusals}
        found: Mapping[int, bytes] = dict(replies)
        last = len(trials) - 1
        for index, trial in enumerate(trials):
            if index < last and trials[index + 1] is trial:
                continue  # a delete; the answer to the create after it counts
            if trial.ask is Ask.MASTER:
                yield from self._judge(
                    trial, *codes.get(index, (0, "")), found.get(index)
                )
            elif index in codes:
                yield from self._refused(trial, *codes[index])
            else:
                self._carried_out(trial, found.get(index, b""))

    def _build(self, trial: Trial, sequence: int) -> list[bytes]:
        key, body, _ = record = trial.record
        timeout_s = min(self._timeout_s(record), _left_s(record))
        if trial.ask is Ask.MASTER:
            return [restore.lookup(_master_key(key, body), sequence)]
        if trial.ask is Ask.LOOK_UP:
            return [restore.lookup(key, sequence)]
        if trial.ask is Ask.TIME:
            if self._wildcards.word == wildcard.RESTRICT and wildcard.is_wildcard(key):
                timeout_s = min(timeout_s, wildcard.LONGEST_S)
            return [restore.update(key, body, timeout_s, sequence)]
        create = restore.create(key, body, timeout_s, sequence + 1)
        if trial.ask is Ask.REPLACE:
            return [restore.delete(key, sequence), create]
        return [create]

    def _again(self, trial: Trial, ask: Ask) -> None:
        trial.ask = ask
        self._waiting.append(trial)

    def _judge(
        self, trial: Trial, code: int, text: str, reply: bytes | None
    ) -> Iterator[Failure]:
        """May a wildcard be expected for the master that the kernel shows?"""
        if code and code != errno.ENOENT:
            yield from self._refused(trial, code, text)
            return
        master = None
        if reply is not None:
            try:
                _, flow, held, _, _ = self._reader.read_one(reply)
                master = flow, held
            except RecordError:
                master = None
        key, body, _ = trial.record
        reason = wildcard.objection(key, body, master)
        if reason:
            self._omit(trial.record, reason)
        else:
            self._again(trial, Ask.CREATE)

    def _omit(self, record: TimedRecord, reason: str) -> None:
        self._wildcards.uncommitted(reason)
        self.omitted[record[0]] = reason

    def _refused(self, trial: Trial, code: int, text: str) -> Iterator[Failure]:
        if trial.ask is Ask.TIME and code in (errno.ENOENT, errno.ETIME):
            return  # it was met, or has ended, meanwhile
        ask = _STEPS.get((trial.ask, code))
        if ask is not None and trial.tries < _TRIES:
            self._again(trial, ask)
        else:
            reason = _REASONS.get(code, errno.errorcode.get(code, str(code)))
            yield trial.record, reason, text

    def _carried_out(self, trial: Trial, reply: bytes) -> None:
        if trial.ask is Ask.LOOK_UP:
            self._found(trial, reply)
        elif trial.ask is Ask.CREATE:
            self._tally.created += 1
            self._again(trial, Ask.TIME)
        elif trial.ask is Ask.REPLACE:
            if trial.known:
                self._tally.updated += 1
            else:
                self._tally.created += 1
            self._again(trial, Ask.TIME)

    def _found(self, trial: Trial, reply: bytes) -> None:
        """The kernel has one that is met by the same packets."""
        key, body, _ = trial.record
        trial.known = True
        try:
            _, there, held, _, _ = self._reader.read_one(reply)
            same = key.startswith(there) and alike(key, body, held)
        except RecordError:
            same = False
        if same:
            self._tally.unchanged += 1
        self._again(trial, Ask.TIME if same else Ask.REPLACE)


def _master_key(key: bytes, body: bytes) -> bytes:
    """The key of the master, in the zone in which it is expected to be."""
    zone = nla.values(key, 4).get(CTA_EXPECT_ZONE)
    return master_of(body) + (b"" if zone is None else nla.tlv(CTA_ZONE, zone))


def _left_s(record: TimedRecord) -> int:
    """How long it would still live where it came from."""
    key, body, elapsed_s = record
    stored_s = restore.stored_timeout_s(key, body)
    return 0 if stored_s is None else stored_s - int(elapsed_s)
