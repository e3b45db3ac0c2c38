"""A plan that plants: a commit in small, beside flows that live in this kernel.

In: a bed of records, what the kernel holds of them, which flows are its own. Out: the
batches of `commit.py`, and after them which records were refused and why. The rules: a
flow of this kernel's own is never deleted to make room for a copy. An entry that is not
known to be a copy is a stranger, most likely a flow that began just now: it is left
alone, and somebody has to ask what it is.
"""

from collections.abc import Callable, Sequence
from struct import Struct

from syncd.errors import RecordError
from syncd.flows import nla, restore
from syncd.flows.batch import Restorer, TimedRecord
from syncd.flows.commit import IN_THE_WAY, Attempt, Batch, CommitPlan
from syncd.flows.likeness import same_reply
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY,
    CTA_PROTOINFO_TCP_WSCALE_ORIGINAL,
    CTA_PROTOINFO_TCP_WSCALE_REPLY,
    EXPECTATION,
    FLOW,
    Record,
    plain_key,
    status_of,
    without_timeout,
)
from syncd.flows.restore import same_content
from syncd.flows.steps import Verb

IsCopy = Callable[[bytes, bytes], bool]  # is the kernel's entry (key, body) a copy?
IsTold = Callable[[bytes], object]  # does any peer tell this flow?

_HEADER = Struct("<IHHII")
_ORIGINAL = b"\x01\x80"  # CTA_TUPLE_ORIG
_WINDOW_SCALE = 0x01  # IP_CT_TCP_FLAG_WINDOW_SCALE
_SCALES = (CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, CTA_PROTOINFO_TCP_WSCALE_REPLY)


class Tools:
    """What plans of one timer share, for it has learned the shapes of messages."""

    __slots__ = ("masks", "reader", "restorer", "timer_s")

    def __init__(self, timer_s: int, masks: Masks = WHOLE) -> None:
        self.timer_s = timer_s
        self.masks = masks
        self.restorer = Restorer(timer_s, masks.attributes)
        self.reader = RecordReader()


class Bed:
    """Records that get the same timer."""

    __slots__ = ("differing", "fresh", "held", "known")

    def __init__(self) -> None:
        self.fresh: list[TimedRecord] = []  # to be created, and all expectations
        self.known: list[TimedRecord] = []  # the kernel holds `held`, maybe alike
        self.held: list[bytes] = []
        self.differing: list[tuple[TimedRecord, bytes]] = []  # it holds another state

    def leave_out(self, owner: Own, masks: Masks) -> None:
        """What has become own is left alone, what differs beside the masks is noted."""
        own = owner.flows.bodies
        if not masks.whole:
            self.differing = [
                (record, held)
                for record, held in self.differing
                if not _noted(record, held, owner.planted, masks)
            ]
        if own:
            self.fresh = [record for record in self.fresh if record[0] not in own]
            known = zip(self.known, self.held, strict=True)
            kept = [pair for pair in known if pair[0][0] not in own]
            self.known = [record for record, _ in kept]
            self.held = [held for _, held in kept]
            self.differing = [pair for pair in self.differing if pair[0][0] not in own]
        self._create_lost(owner.planted)

    def _create_lost(self, planted: dict[bytes, bytes]) -> None:
        """What was found to be gone since is to be created."""
        known, held, differing = self.known, self.held, self.differing
        lost = []
        for record in known:
            if record[0] not in planted:
                lost.append(record)  # noqa: PERF401 - typed when compiled
        for pair in differing:
            record = pair[0]
            if record[0] not in planted:
                lost.append(record)
        if lost:
            pairs = [p for p in zip(known, held, strict=True) if p[0][0] in planted]
            self.known, self.held = [p[0] for p in pairs], [p[1] for p in pairs]
            self.differing = [pair for pair in differing if pair[0][0] in planted]
            self.fresh += lost

    def __len__(self) -> int:
        return len(self.fresh) + len(self.known) + len(self.differing)


class PlantingPlan(CommitPlan):
    """Plants a bed."""

    def __init__(
        self,
        bed: Bed,
        own: Own,
        is_copy: IsCopy,
        is_told: IsTold,
        tools: Tools,
    ) -> None:
        super().__init__(
            *(bed.fresh, {}, tools.timer_s, tools.masks), wildcards=own.wildcards
        )
        self.records = [*bed.fresh, *bed.known, *[pair[0] for pair in bed.differing]]
        self._fresh_count = len(bed.fresh)
        self._known, self._known_held = bed.known, bed.held
        self._differing = bed.differing
        if not tools.masks.whole:
            mask = tools.masks.body
            self._known = list(tools.masks.restored(bed.known))
            pairs = zip(bed.known, bed.held, strict=True)
            self._known_held = [mask(record[0], held) for record, held in pairs]
            self._differing = [
                ((key, mask(key, body), elapsed_s), mask(key, held))
                for (key, body, elapsed_s), held in bed.differing
            ]
        self.timer_s = tools.timer_s
        self.refused: dict[bytes, str] = {}  # key -> reason
        self._restorer = tools.restorer
        self._reader = tools.reader
        self.strangers: list[bytes] = []
        self.replaced: list[bytes] = []  # copies that nobody tells, and gave way
        self._own = own.flows.bodies
        self._is_copy, self._is_told = is_copy, is_told
        own.sown.update(
            [key if key[6] == FLOW else plain_key(key) for key, _, _ in bed.fresh]
        )

    def written(self, owner: Own) -> list[tuple[bytes, bytes]]:
        """What is a copy now, as it was to be: the kernel has it, and nobody else."""
        own, more = owner.flows.bodies, owner.expectations.bodies
        fresh, refused = self._fresh_count, self.refused
        created = _created(self.records[:fresh], refused, own, more)
        return created + _kept(self.records[fresh:], refused, owner.planted)

    def next_batch(self) -> Batch | None:
        batch = super().next_batch()
        if omitted := self._expecting.omitted:
            self.refused |= omitted
            omitted.clear()
        return batch

    def _updates(self) -> Batch:
        differing = self._differing
        batch = super()._updates()
        if len(batch.messages) < len(differing):  # so that the next ones are built
            for (_, body, _), held in differing:
                self._restorer.learn(body)
                self._restorer.learn(held)
        return batch

    def _fail(self, record: TimedRecord, reason: str, text: str = "") -> None:
        self.refused[record[0]] = f"{reason} ({text})" if text else reason

    def _try(self, attempt: Attempt, verb: Verb) -> None:
        if verb is Verb.DISPLACE:  # who holds the reply tuple is not known
            self._fail(attempt.record, IN_THE_WAY)
        else:
            super()._try(attempt, verb)

    def _found(self, attempt: Attempt, message: bytes) -> None:
        try:
            _, key, held, _, _ = self._reader.read_one(message)
        except RecordError:
            super()._found(attempt, message)
            return
        if key in self._own:
            self._fail(attempt.record, IN_THE_WAY)
        elif not self._is_copy(key, held):
            self.strangers.append(key)
            self._fail(attempt.record, IN_THE_WAY)
        elif key == attempt.record[0]:
            super()._found(attempt, message)
        elif self._is_told(key):  # of two copies that cannot both be, the first stays
            self._fail(attempt.record, IN_THE_WAY)
        else:
            self.replaced.append(key)
            super()._found(attempt, message)

    def _found_some(self, batch: Batch, replies: Sequence[tuple[int, bytes]]) -> None:
        for index, reply in replies:
            self._found(Attempt(batch.records[index], Verb.LOOK_UP), reply)


def _created(
    records: list[TimedRecord],
    refused: dict[bytes, str],
    own: dict[bytes, bytes],
    more: dict[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """Those that were not refused, and have not become own meanwhile."""
    made = []
    for record in records:
        key, body = record[0], record[1]
        if key not in refused and key not in own and key not in more:
            made.append((key, body))
    return made


def _kept(
    records: list[TimedRecord],
    refused: dict[bytes, str],
    planted: dict[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """Those that were not refused, and are still planted."""
    kept = []
    for record in records:
        key, body = record[0], record[1]
        if key in planted and key not in refused:
            kept.append((key, body))
    return kept


def _noted(
    record: TimedRecord, held: bytes, planted: dict[bytes, bytes], masks: Masks
) -> bool:
    """Is a copy as it is told now, but for what is not planted? Then that is noted."""
    key, body, _ = record
    now, then = masks.body(key, body), masks.body(key, held)
    if key not in planted or without_timeout(now) != without_timeout(then):
        return False
    planted[key] = body
    return True


def deletes(keys: Sequence[bytes]) -> list[bytes]:
    """Requests that delete these records."""
    return _asked(keys, restore.CT_DELETE, restore.delete)


def lookups(keys: Sequence[bytes]) -> list[bytes]:
    """Requests that ask for these records."""
    return _asked(keys, restore.CT_GET, restore.lookup)


def _asked(
    keys: Sequence[bytes], kind: int, rarely: Callable[[bytes, int], bytes]
) -> list[bytes]:
    """Requests that consist of a key; a flow's are built at once."""
    messages = []
    for number, key in enumerate(keys, 1):
        size = len(key)
        # The tuple fills the key, so it is one: a delete without would be a flush.
        if key[6:8] == _ORIGINAL and size == 4 + (key[4] | key[5] << 8) and size > 32:
            head = _HEADER.pack(16 + size, kind, restore.REQUEST, number, 0)
            messages.append(head + key)
        else:
            messages.append(rarely(key, number))
    return messages


def shown(reader: RecordReader, replies: Sequence[bytes | None]) -> list[Record | None]:
    """The record of each reply, None if there is none."""
    # Without sequence and port id a reply is of a shape that the reader knows.
    messages = [reply[:8] + bytes(8) + reply[16:] for reply in replies if reply]
    found = iter(reader.read(messages))
    if reader.malformed:
        reader.malformed = 0
        return [None] * len(replies)
    return [next(found) if reply else None for reply in replies]


def is_another(key: bytes, held: bytes, told: bytes) -> bool:
    """Is what was told a new flow with the original tuple of the one that is held?

    A reply tuple never changes, and of STATUS no bit is ever taken back.
    """
    if key[6] == EXPECTATION:
        return False
    if not same_reply(held, told):
        return True
    was, now = status_of(held), status_of(told)
    lost = was & ~now & (restore.KEPT_BITS | restore.NAT_BITS)
    return bool(lost or (was ^ now) & restore.NAT_BITS)


def same_copy(body: bytes, held: bytes) -> bool:
    """Is the kernel's entry `held` what a copy of `body` is, but for its timer?"""
    try:
        return same_content(body, held) or same_content(_stored(body), _stored(held))
    except RecordError:
        return True  # nothing could be put right


def _stored(body: bytes) -> bytes:
    """A body without a window scale that only one side has offered so far.

    The kernel takes both scales or none (`nlattr_to_tcp` in
    net/netfilter/nf_conntrack_proto_tcp.c).
    """
    attributes = nla.attributes(body)
    raw = attributes.get(CTA_PROTOINFO, b"")
    for kind, _, start, end in nla.walk(raw, 4, len(raw)):
        if kind != CTA_PROTOINFO_TCP:
            continue
        parts = nla.attributes(raw, start, end)
        flags = (
            parts.get(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, bytes(5)),
            parts.get(CTA_PROTOINFO_TCP_FLAGS_REPLY, bytes(5)),
        )
        if not flags[0][4] & flags[1][4] & _WINDOW_SCALE:
            for scale in _SCALES:
                if scale in parts:
                    parts[scale] = nla.tlv(scale, bytes(1))
            tcp = nla.nested(CTA_PROTOINFO_TCP, *parts.values())
            attributes[CTA_PROTOINFO] = nla.nested(CTA_PROTOINFO, tcp)
    return b"".join(attributes.values())
