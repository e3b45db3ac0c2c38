"""The plan of a commit against a model of the kernel's table."""

import errno
import gc
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from syncd.flows import nla, restore
from syncd.flows.batch import TimedRecord
from syncd.flows.commit import (
    BATCH_MESSAGES,
    TABLE_FULL,
    TRIES,
    Batch,
    CommitPlan,
)
from syncd.flows.expecting import MALFORMED
from syncd.flows.record import (
    CTA_EXPECT_TUPLE,
    CTA_HELP,
    CTA_LABELS,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
)

from tests.unit.flows.test_restore import VECTORS, Vector

_CREATE, _UPDATE, _GET, _DELETE, _EXPECT = "create", "update", "get", "delete", "expect"
_VERBS = {0x101: _GET, 0x102: _DELETE, 0x200: _EXPECT}

Answer = tuple[list[tuple[int, int, str]], list[tuple[int, bytes]]]


class Kernel:
    """Holds flows by key; knows EEXIST and ENOENT, and refuses what it is told to."""

    def __init__(self, held: dict[bytes, bytes] | None = None) -> None:
        self.flows = dict(held or {})
        self.asked: list[tuple[str, bytes, dict[int, bytes]]] = []
        self.refusals: dict[str, deque[int]] = defaultdict(deque)
        self.limit = 1 << 30

    def answer(self, messages: Sequence[bytes]) -> Answer:
        refused, replies = [], []
        for index, message in enumerate(messages):
            kind = int.from_bytes(message[4:6], "little")
            flags = int.from_bytes(message[6:8], "little")
            verb = _VERBS.get(kind, _CREATE if flags & 0x400 else _UPDATE)
            sent = nla.attributes(message, 20)
            first = CTA_EXPECT_TUPLE if verb == _EXPECT else CTA_TUPLE_ORIG
            key = message[16:20] + sent.get(first, b"") + sent.get(CTA_ZONE, b"")
            self.asked.append((verb, key, sent))
            code = self._answer_one(verb, key, sent)
            if code:
                refused.append((index, code, ""))
            elif verb == _GET:
                body = key[4:] + self.flows[key]
                head = (20 + len(body)).to_bytes(4, "little") + b"\0\x01\x02\0"
                replies.append((index, head + message[8:20] + body))
        return refused, replies

    def _answer_one(self, verb: str, key: bytes, sent: dict[int, bytes]) -> int:
        if self.refusals[verb]:
            return self.refusals[verb].popleft()
        if verb == _CREATE:
            if key in self.flows:
                return errno.EEXIST
            if len(self.flows) >= self.limit:
                return errno.ENOMEM
            parts = (CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT)
            self.flows[key] = b"".join(sent[part] for part in parts)
        elif verb != _EXPECT and CTA_TUPLE_ORIG in sent and key not in self.flows:
            return errno.ENOENT
        elif verb == _DELETE:
            self.flows.pop(key, None)
        return 0

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.asked]


def _vector(scenario: str, number: int = 0) -> Vector:
    return [v for v in VECTORS if v.name.split("-", 1)[1] == scenario][number]


def _record(vector: Vector) -> TimedRecord:
    return vector.key, vector.body, 0.0


def _records(count: int) -> list[TimedRecord]:
    key, body, _ = _record(_vector("udp4"))
    ports = (number.to_bytes(2, "big") for number in range(count))
    return [(key[:44] + port + key[46:], body, 0.0) for port in ports]


def _run(
    records: Iterable[TimedRecord],
    kernel: Kernel,
    held: dict[bytes, bytes] | None = None,
) -> CommitPlan:
    """Drive the plan with two batches on their way, answered in order."""
    plan = CommitPlan(records, held or {})
    sent: deque[tuple[Batch, Answer]] = deque()
    while True:
        batch = plan.next_batch()
        if batch is not None:
            assert 0 < len(batch.messages) <= BATCH_MESSAGES
            sent.append((batch, kernel.answer(batch.messages)))
        if not sent:
            return plan
        if batch is None or len(sent) == 2:
            batch, answer = sent.popleft()
            plan.report(batch, *answer)


def test_flows_that_are_not_there_are_created() -> None:
    kernel = Kernel()
    result = _run(_records(1300), kernel).result
    assert (result.created, result.updated, result.unchanged) == (1300, 0, 0)
    assert kernel.verbs == [_CREATE] * 1300


def test_a_flow_known_to_be_there_alike_is_unchanged_but_for_its_timer() -> None:
    records = _records(700)
    held = {key: body for key, body, _ in records}
    kernel = Kernel(held)
    result = _run(records, kernel, held).result
    assert (result.created, result.updated, result.unchanged) == (0, 0, 700)
    assert kernel.verbs == [_UPDATE] * 700
    assert all(
        set(sent) == {CTA_TUPLE_ORIG, CTA_TIMEOUT} for _, _, sent in kernel.asked
    )


def test_a_flow_known_to_be_there_in_another_state_is_updated() -> None:
    tcp, reset = _vector("tcp4_close"), _vector("tcp4_reset")
    body = tcp.body[:68] + reset.body[68:]
    held = {tcp.key: tcp.body}
    kernel = Kernel(held)
    result = _run([(tcp.key, body, 0.0)], kernel, held).result
    assert (result.created, result.updated, result.unchanged) == (0, 1, 0)


def test_a_flow_that_turns_out_to_be_there_alike_is_unchanged() -> None:
    records = _records(1000)
    kernel = Kernel({key: body for key, body, _ in records})
    result = _run(records, kernel).result
    assert (result.created, result.updated, result.unchanged) == (0, 0, 1000)
    assert kernel.verbs.count(_GET) == 1000


def test_a_flow_that_is_there_with_another_reply_tuple_is_replaced() -> None:
    plain, nat = _vector("tcp4_close"), _vector("tcp4_masquerade")
    for known in (True, False):
        held = {nat.key: plain.body}
        kernel = Kernel(held)
        result = _run([_record(nat)], kernel, held if known else {}).result
        assert (result.created, result.updated, result.failures) == (0, 1, 0)
        assert kernel.verbs[-2:] == [_DELETE, _CREATE]
        assert kernel.asked[-2][1] == nat.key


def test_whoever_holds_the_translated_reply_tuple_makes_room() -> None:
    nat = _vector("tcp4_masquerade")
    kernel = Kernel()
    kernel.refusals[_CREATE].append(errno.EEXIST)
    plan = _run([_record(nat)], kernel)
    assert (plan.result.created, plan.result.failures) == (1, 0)
    assert kernel.verbs == [_CREATE, _GET, _DELETE, _CREATE]
    reply = nla.attributes(nat.body)[CTA_TUPLE_REPLY]
    assert kernel.asked[2][2] == {CTA_TUPLE_REPLY: reply}
    assert plan.displaced == [reply]


def test_a_flow_that_ended_meanwhile_is_created() -> None:
    records = _records(3)
    kernel = Kernel()
    result = _run(records, kernel, {key: body for key, body, _ in records}).result
    assert (result.created, result.unchanged) == (3, 0)


def test_masters_go_first_and_expectations_last() -> None:
    vectors = VECTORS[1:4]  # ftp4_active_masquerade: master, related, expectation.
    assert {v.name.split("-", 1)[1] for v in vectors} == {"ftp4_active_masquerade"}
    kernel = Kernel()
    result = _run([_record(vector) for vector in reversed(vectors)], kernel).result
    assert result.created == 3
    assert [key for _, key, _ in kernel.asked[:2]] == [v.key for v in vectors[:2]]
    assert kernel.verbs[2] == _EXPECT


def test_a_related_flow_whose_master_is_gone_becomes_an_ordinary_one() -> None:
    kernel = Kernel()
    kernel.refusals[_CREATE].extend([errno.ENOENT, errno.ENOENT])
    result = _run([_record(_vector("ftp4_passive", 1))], kernel).result
    assert (result.created, result.failures) == (1, 0)
    masters = [CTA_TUPLE_MASTER in sent for _, _, sent in kernel.asked]
    assert masters == [True, True, False]


def test_a_helper_or_labels_that_the_kernel_lacks_are_left_out() -> None:
    vector = _vector("kitchen_sink_ftp4")
    kernel = Kernel()
    kernel.refusals[_CREATE].append(errno.EOPNOTSUPP)
    assert _run([_record(vector)], kernel).result.created == 1
    assert [CTA_HELP in sent for _, _, sent in kernel.asked] == [True, False]

    labelled = _vector("labels")
    held = {labelled.key: labelled.body.replace(b"\x16\0", b"\x18\0")}
    kernel = Kernel(held)
    kernel.refusals[_UPDATE].append(errno.ENOSPC)
    assert _run([_record(labelled)], kernel, held).result.updated == 1
    assert [CTA_LABELS in sent for _, _, sent in kernel.asked] == [True, False]


def test_refused_status_bits_are_looked_up_and_then_left_alone() -> None:
    vector = _vector("udp4")
    held = {vector.key: _vector("udp4_unreplied").body}
    held[vector.key] = vector.body[:52] + restore.be32(CTA_STATUS, 8) + vector.body[60:]
    kernel = Kernel(held)
    kernel.refusals[_UPDATE].extend([errno.EBUSY, errno.EBUSY])
    assert _run([_record(vector)], kernel, held).result.updated == 1
    assert kernel.verbs == [_UPDATE, _GET, _UPDATE, _UPDATE]
    statuses = [CTA_STATUS in sent for _, _, sent in kernel.asked]
    assert statuses == [True, False, True, False]


def test_a_full_table_ends_all_creating_with_one_error() -> None:
    kernel = Kernel()
    kernel.limit = 600
    result = _run(_records(3000), kernel).result
    assert result.created == 600
    assert result.failed == {TABLE_FULL: 2400}
    assert "nf_conntrack_max" in result.error
    assert len(kernel.asked) <= 3 * BATCH_MESSAGES
    assert len(result.examples) == 10


def test_a_full_table_is_still_refreshed() -> None:
    records = _records(1500)
    held = {key: body for key, body, _ in records[1000:]}
    kernel = Kernel(held)
    kernel.limit = 500
    result = _run(records, kernel, held).result
    assert (result.created, result.unchanged) == (0, 500)
    assert result.failed == {TABLE_FULL: 1000}


def test_what_is_malformed_is_counted_and_harms_no_other() -> None:
    good = _records(2)
    bad = [(b"", b"", 0.0), (good[0][0], b"\x10", 0.0), (good[0][0][:8], b"", 0.0)]
    misaligned = [(good[0][0], good[0][1] + b"\0", 0.0)]
    result = _run([good[0], *bad, *misaligned, good[1]], Kernel()).result
    assert result.created == 2
    assert result.failed == {MALFORMED: 4}


def test_no_flow_is_tried_for_ever() -> None:
    kernel = Kernel()
    kernel.refusals[_CREATE].extend([errno.EEXIST] * 100)
    kernel.refusals[_GET].extend([errno.ENOENT] * 100)
    result = _run(_records(1), kernel).result
    assert result.failed == {"EEXIST": 1}
    assert len(kernel.asked) <= 2 * TRIES + 2


def test_an_unexpected_refusal_is_counted_by_its_name_with_the_flow() -> None:
    kernel = Kernel()
    kernel.refusals[_CREATE].append(errno.EINVAL)
    result = _run(_records(5), kernel).result
    assert (result.created, result.failed) == (4, {"EINVAL": 1})
    assert result.examples[0].startswith("EINVAL: udp")
    assert "dst=" in result.examples[0]


def test_lost_answers_are_asked_for_again() -> None:
    kernel = Kernel()
    kernel.refusals[_CREATE].extend([errno.ENOBUFS] * 3)
    assert _run(_records(5), kernel).result.created == 5


def test_a_plan_is_gone_when_nobody_holds_it() -> None:
    plan = CommitPlan(_records(3), {})
    ended = weakref.ref(plan)
    gc.disable()  # it would have to find plans that hold themselves
    try:
        del plan
        assert ended() is None
    finally:
        gc.enable()
