"""The plan of a commit: what to ask the kernel next, given what it answered so far.

In: the records to put into this kernel, each with the time since it was told, and what
this kernel holds as far as its owner knows. Out: batches of messages, and in the end
the `Result`. A driver sends them (`kernel/requests.py`) and reports what was refused:

    while (batch := plan.next_batch()) is not None:
        plan.report(batch, refusals, replies)

Two batches may be on their way at once; `next_batch` is None as long as only a report
can bring more work, and for good when all is done.

The rules: masters go before related flows, expectations come last, each pass begins
when the answers to the last one are in. A flow that the kernel holds alike only gets
its timer set. What is refused is tried in another way by the table `STEPS`, a few
times at most; whatever remains is counted by its reason, never raised.
"""

import errno
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from syncd.errors import RecordError
from syncd.flows import restore, view
from syncd.flows.batch import Restorer, TimedRecord
from syncd.flows.expecting import MALFORMED, Expecting, Trial
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.nla import attributes
from syncd.flows.reader import RecordReader
from syncd.flows.record import CTA_STATUS, CTA_TUPLE_MASTER, EXPECTATION
from syncd.flows.steps import CREATING, STEPS, Verb
from syncd.flows.timers import DEFAULTS, Timers
from syncd.flows.wildcard import Wildcards

BATCH_MESSAGES = 512
EXAMPLES = 10
TRIES = 8

TABLE_FULL = "table full"
IN_THE_WAY = "another flow in the way"


@dataclass(slots=True)
class Result:
    """What became of the records. `error` is one line for the log, "" if all went on.

    `unchanged` were there alike, but for the timer, which was set. `failed` counts by
    reason; `examples` names some of the failed.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def failures(self) -> int:
        """How many failed."""
        return sum(self.failed.values())


@dataclass(slots=True)
class Attempt:
    """A record that takes more than one message, and what is known about it."""

    record: TimedRecord
    verb: Verb
    held: bytes = b""
    leave_out: int = 0
    tries: int = 0
    looked_up: bool = False
    waited: bool = False


@dataclass(slots=True)
class Batch:
    """Messages to send at once, in order.

    One of `records` (all of the same `verb`), `attempts` and `trials` has one entry for
    each.
    """

    messages: list[bytes]
    verb: Verb
    records: list[TimedRecord]
    held: list[bytes]
    attempts: list[Attempt]
    trials: list[Trial] = field(default_factory=list)

    def without_message(self) -> list[tuple[TimedRecord, bytes]]:
        """Take out the records that have an empty message."""
        if all(self.messages):
            return []
        every = list(zip(self.records, self.held, self.messages, strict=True))
        kept = [entry for entry in every if entry[2]]
        self.records = [record for record, _, _ in kept]
        self.held = [held for _, held, _ in kept]
        self.messages = [message for _, _, message in kept]
        return [(record, held) for record, held, message in every if not message]


class CommitPlan:
    """Puts records into a kernel that holds `held`; `timeout_s` None is an estimate."""

    def __init__(
        self,
        records: Iterable[TimedRecord],
        held: Mapping[bytes, bytes],
        timeout_s: int | None = None,
        masks: Masks = WHOLE,
        timers: Timers = DEFAULTS,
        *,
        wildcards: Wildcards | None = None,
    ) -> None:
        """`wildcards` says what to do with expectations of any source."""
        self.result = Result()
        self._restorer = restorer = Restorer(timeout_s, masks.attributes, timers)
        self._expecting = Expecting(
            self.result,
            wildcards or Wildcards(),
            lambda record: restorer.timeout_s(*record),  # no cycle: it goes with us
        )
        self._held = held
        self._masks = masks
        self._reader = RecordReader()
        self._source = iter(records) if masks.whole else masks.restored(records)
        self._first_pass = True
        self._fresh: list[TimedRecord] = []
        self._known: list[TimedRecord] = []
        self._known_held: list[bytes] = []
        self._differing: list[tuple[TimedRecord, bytes]] = []
        self._unsure: list[TimedRecord] = []
        self._related: list[TimedRecord] = []
        self._retries: deque[Attempt] = deque()
        self._lookups: deque[Attempt] = deque()
        self._masterless: list[Attempt] = []
        self._on_their_way = 0
        self._sequence = 1
        self._full = False
        self.displaced: list[bytes] = []  # reply tuples that were taken from others

    def next_batch(self) -> Batch | None:
        """What to send now."""
        while True:
            batch = (
                self._follow_up(self._lookups)
                or self._follow_up(self._retries)
                or self._next_of_pass()
            )
            if batch is not None:
                if not batch.messages:
                    continue
                self._on_their_way += 1
                return batch
            if self._on_their_way:
                return None
            if not self._begin_pass():
                batch = self._expect()
                self._on_their_way += batch is not None
                return batch

    def report(
        self,
        batch: Batch,
        refusals: Sequence[tuple[int, int, str]],
        replies: Sequence[tuple[int, bytes]],
    ) -> None:
        """The kernel's answer: (index, errno, text) and (index, message) of a batch."""
        self._on_their_way -= 1
        if batch.trials:
            for failure in self._expecting.report(batch.trials, refusals, replies):
                self._fail(*failure)
            return
        if batch.attempts:
            self._report_attempts(batch, refusals, replies)
            return
        done = len(batch.messages) - len(refusals)
        if batch.verb is Verb.CREATE:
            self.result.created += done
        elif batch.verb is Verb.UPDATE:
            self.result.updated += done
        elif batch.verb is Verb.REFRESH:
            self.result.unchanged += done
        else:
            self._found_some(batch, replies)
        for index, code, text in refusals:
            record = batch.records[index]
            if code == errno.EEXIST and batch.verb is Verb.CREATE:
                self._unsure.append(record)
            else:
                held = batch.held[index] if batch.held else b""
                self._refused(Attempt(record, batch.verb, held), code, text)

    def _report_attempts(
        self,
        batch: Batch,
        refusals: Sequence[tuple[int, int, str]],
        replies: Sequence[tuple[int, bytes]],
    ) -> None:
        # A delete and the create after it have the same attempt; only the latter's
        # answer counts, it comes second.
        codes = {index: (code, text) for index, code, text in refusals}
        messages = dict(replies)
        last = len(batch.attempts) - 1
        for index, attempt in enumerate(batch.attempts):
            if index < last and batch.attempts[index + 1] is attempt:
                continue
            if index in codes:
                self._refused(attempt, *codes[index])
            elif attempt.verb is Verb.LOOK_UP:
                self._found(attempt, messages.get(index, b""))
            else:
                self._done(attempt)

    # One pass after the other.

    def _begin_pass(self) -> bool:
        """Related flows, those without a master yet; False when no flow is left."""
        self._first_pass = False
        if self._related:
            self._source, self._related = iter(self._related), []
        elif self._masterless:
            self._retries.extend(self._masterless)
            self._masterless = []
        else:
            return False
        return True

    def _expect(self) -> Batch | None:
        """Expectations, of which only an answer can bring more."""
        sent, failed = self._expecting.messages(BATCH_MESSAGES, self._take)
        for failure in failed:
            self._fail(*failure)
        if not sent:
            return None
        messages, trials = (
            [message for message, _ in sent],
            [trial for _, trial in sent],
        )
        return Batch(messages, Verb.CREATE, [], [], [], trials)

    def _next_of_pass(self) -> Batch | None:
        """Fill up with records until there is a whole batch of one verb."""
        if self._unsure:
            return self._asks()
        if self._differing:
            return self._updates()
        while max(len(self._fresh), len(self._known)) < BATCH_MESSAGES:
            room = BATCH_MESSAGES - max(len(self._fresh), len(self._known))
            records = list(islice(self._source, room))
            if not records:
                break
            self._sort(records)
        if len(self._fresh) >= len(self._known):
            return self._creates() if self._fresh else None
        return self._refreshes()

    def _sort(self, records: list[TimedRecord]) -> None:
        """Put aside what a later pass is for; tell the known from the unknown."""
        held_of, first_pass = self._held.get, self._first_pass
        masks = None if self._masks.whole else self._masks
        for record in records:
            key, body, _ = record
            try:
                # The last byte of STATUS, which follows the reply tuple; without
                # STATUS a flow may land in the later pass, which is just as good.
                if key[6] == EXPECTATION:
                    self._expecting.add(record)
                elif first_pass and body[body[0] + 7] & restore.EXPECTED:
                    self._related.append(record)
                elif (held := held_of(key)) is None:
                    self._fresh.append(record)
                else:
                    self._known.append(record)
                    self._known_held.append(masks.body(key, held) if masks else held)
            except IndexError:
                self._fail(record, MALFORMED)

    def _creates(self) -> Batch:
        records, self._fresh = self._fresh, []
        if self._full:
            for record in records:
                self._fail(record, TABLE_FULL)
            return Batch([], Verb.CREATE, [], [], [])
        messages = self._restorer.creates(records, self._take(len(records)))
        batch = Batch(messages, Verb.CREATE, records, [b""] * len(records), [])
        for record, _ in batch.without_message():
            self._fail(record, MALFORMED)
        return batch

    def _refreshes(self) -> Batch:
        """Set the timers of the known that are alike, put aside those that differ."""
        records, self._known = self._known, []
        held, self._known_held = self._known_held, []
        messages = self._restorer.refreshes(records, held, self._take(len(records)))
        batch = Batch(messages, Verb.REFRESH, records, held, [])
        self._differing += batch.without_message()
        return batch

    def _updates(self) -> Batch:
        differing, self._differing = self._differing, []
        records, held = [pair[0] for pair in differing], [pair[1] for pair in differing]
        messages = self._restorer.updates(records, held, self._take(len(records)))
        batch = Batch(messages, Verb.UPDATE, records, held, [])
        for record, there in batch.without_message():
            self._differs(Attempt(record, Verb.UPDATE), there)
        return batch

    def _asks(self) -> Batch:
        records, self._unsure = self._unsure, []
        first = self._take(len(records))
        messages = [
            restore.lookup(record[0], number)
            for number, record in enumerate(records, first)
        ]
        return Batch(messages, Verb.LOOK_UP, records, [], [])

    # One record after the other.

    def _follow_up(self, queue: deque[Attempt]) -> Batch | None:
        """Messages for attempts; those that cannot be built are counted."""
        if not queue:
            return None
        messages: list[bytes] = []
        attempts: list[Attempt] = []
        while queue and len(messages) < BATCH_MESSAGES - 1:
            attempt = queue.popleft()
            attempt.tries += 1
            try:
                built = self._build(attempt)
            except RecordError:
                self._fail(attempt.record, MALFORMED)
                continue
            messages += built
            attempts += [attempt] * len(built)
        return Batch(messages, Verb.LOOK_UP, [], [], attempts)

    def _build(self, attempt: Attempt) -> list[bytes]:
        key, body, elapsed_s = attempt.record
        verb, leave_out, sequence = attempt.verb, attempt.leave_out, self._take(2)
        if verb is Verb.LOOK_UP:
            return [restore.lookup(key, sequence)]
        timeout_s = self._restorer.timeout_s(key, body, elapsed_s)
        held = attempt.held
        if verb is Verb.REFRESH:
            return [restore.refresh(key, timeout_s, sequence, held, leave_out)]
        if verb is Verb.UPDATE:
            masks = self._masks.attributes
            message = restore.update(
                key, body, timeout_s, sequence, held, leave_out, masks
            )
            return [message]
        create = restore.create(key, body, timeout_s, sequence + 1, leave_out)
        if verb is Verb.REPLACE:
            return [restore.delete(key, sequence), create]
        if verb is Verb.DISPLACE:
            self.displaced.append(body[: body[0]])
            return [restore.delete_reply(key, body, sequence), create]
        return [create]

    def _try(self, attempt: Attempt, verb: Verb) -> None:
        attempt.verb = verb
        (self._lookups if verb is Verb.LOOK_UP else self._retries).append(attempt)

    def _refused(self, attempt: Attempt, code: int, text: str) -> None:
        """Go the next step with it, or count it as failed."""
        _, body, _ = attempt.record
        if code == errno.ENOMEM and attempt.verb in CREATING:
            self._table_is_full()
            self._fail(attempt.record, TABLE_FULL)
            return
        verb, without = STEPS.get((attempt.verb, code), (None, 0))
        if verb is Verb.LOOK_UP and attempt.looked_up and code == errno.EBUSY:
            verb, without = Verb.UPDATE, CTA_STATUS
        if without and (attempt.leave_out >> without & 1 or not _has(body, without)):
            verb = None
        if verb is None or attempt.tries >= TRIES:
            if verb is Verb.DISPLACE:
                code = errno.EEXIST  # What the kernel said when it was last to create.
            self._fail(attempt.record, errno.errorcode.get(code, str(code)), text)
        elif self._full and verb is Verb.CREATE:
            self._fail(attempt.record, TABLE_FULL)
        elif without == CTA_TUPLE_MASTER and not attempt.waited:
            attempt.waited = True
            attempt.verb = Verb.CREATE
            self._masterless.append(attempt)
        else:
            if without:
                attempt.leave_out |= 1 << without
            self._try(attempt, verb)

    def _found(self, attempt: Attempt, message: bytes) -> None:
        """The kernel has an entry with the original tuple, in either direction."""
        attempt.looked_up = True
        try:
            _, key, held, _, _ = self._reader.read_one(message)
        except RecordError:
            self._refused(attempt, errno.ENOBUFS, "no reply to a lookup")
            return
        if key != attempt.record[0]:
            self._try(attempt, Verb.REPLACE)
        else:
            self._differs(attempt, held)

    def _found_some(self, batch: Batch, replies: Sequence[tuple[int, bytes]]) -> None:
        """The kernel has these: from now on they are known."""
        # Without sequence and port id a reply is of a shape that the reader knows.
        messages = [reply[:8] + bytes(8) + reply[16:] for _, reply in replies]
        found = self._reader.read(messages)
        if len(found) != len(messages):  # One was unreadable; find out which.
            for index, reply in replies:
                self._found(Attempt(batch.records[index], Verb.LOOK_UP), reply)
            return
        for (index, _), (_, key, held, _, _) in zip(replies, found, strict=True):
            record = batch.records[index]
            if key == record[0]:
                self._known.append(record)
                self._known_held.append(self._masks.body(key, held))
            else:
                self._try(Attempt(record, Verb.REPLACE), Verb.REPLACE)

    def _differs(self, attempt: Attempt, held: bytes) -> None:
        """The kernel's entry is `held`, of the same key."""
        key, body, _ = attempt.record
        attempt.held = held = self._masks.body(key, held)
        try:
            if not restore.same_tuples(body, held):
                self._try(attempt, Verb.REPLACE)
            elif restore.same_content(body, held):
                self._try(attempt, Verb.REFRESH)
            else:
                self._try(attempt, Verb.UPDATE)
        except RecordError:
            self._fail(attempt.record, MALFORMED)

    def _done(self, attempt: Attempt) -> None:
        result, verb = self.result, attempt.verb
        if verb in (Verb.CREATE, Verb.DISPLACE):
            result.created += 1
        elif verb is Verb.REFRESH:
            result.unchanged += 1
        else:
            result.updated += 1

    def _table_is_full(self) -> None:
        self._full = True
        self.result.error = (
            "the kernel's connection tracking table is full,"
            " raise net.netfilter.nf_conntrack_max"
        )

    def _fail(self, record: TimedRecord, reason: str, text: str = "") -> None:
        failed, examples = self.result.failed, self.result.examples
        failed[reason] = failed.get(reason, 0) + 1
        if len(examples) < EXAMPLES:
            reason = f"{reason} ({text})" if text else reason
            examples.append(f"{reason}: {view.name_of(*record[:2])}")

    def _take(self, count: int) -> int:
        """The first of `count` sequence numbers."""
        first = self._sequence
        self._sequence = first + count if first < 1 << 30 else 1
        return first


def _has(body: bytes, kind: int) -> bool:
    try:
        return kind in attributes(body)
    except RecordError:
        return False
