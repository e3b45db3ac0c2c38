"""Expectations of a commit, and those of any source, against a model of a kernel."""

import errno
from collections import deque

import pytest
from syncd.flows import nla, restore
from syncd.flows.commit import CommitPlan, Result
from syncd.flows.expecting import (
    ENDED,
    MALFORMED,
    MASTER_ABSENT,
    MASTER_WITHOUT_HELPER,
    Expecting,
)
from syncd.flows.nla import nested, tlv
from syncd.flows.own import Own
from syncd.flows.record import (
    CTA_EXPECT_CLASS,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_MASK,
    CTA_EXPECT_MASTER,
    CTA_EXPECT_NAT,
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_TUPLE,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    EXP_DUMP,
    EXP_NEW,
)
from syncd.flows.wildcard import (
    ACCEPT,
    BY_POLICY,
    LONGEST_S,
    LOW_PORT,
    MASTER_GONE,
    REFUSE,
    RESTRICT,
    THIRD_HOST,
    WORDS,
    Wildcards,
    is_wildcard,
    objection,
)

CLIENT, SERVER, PUBLIC, THIRD = "10.0.0.1", "192.0.2.1", "198.51.100.1", "10.0.0.7"
ANY = ".".join("0000")
_HEAD = b"\2\0\0\0"
_FULL = "255.255.255.255"


def _tuple(kind: int, source: str, to: str, ports: tuple[int, int]) -> bytes:
    addresses = (bytes(map(int, text.split("."))) for text in (source, to))
    return nested(
        kind,
        nested(1, *(tlv(at, address) for at, address in enumerate(addresses, 1))),
        nested(
            2, tlv(1, b"\6"), *(tlv(at, p.to_bytes(2)) for at, p in enumerate(ports, 2))
        ),
    )


def _master(status: int = 0xE, state: int = 3) -> tuple[bytes, bytes]:
    """A masqueraded connection."""
    body = (
        _tuple(CTA_TUPLE_REPLY, SERVER, PUBLIC, (6667, 40000))
        + restore.be32(CTA_STATUS, status)
        + restore.be32(CTA_TIMEOUT, 600)
        + nested(CTA_PROTOINFO, nested(1, tlv(1, bytes((state,)))))
    )
    return _HEAD + _tuple(CTA_TUPLE_ORIG, CLIENT, SERVER, (40000, 6667)), body


def _expected(
    to: str = PUBLIC,
    port: int = 5000,
    *,
    mask: str = ANY,
    saved: tuple[str, int] | None = None,
    seconds: int = 1000,
    flags: int = 0,
) -> tuple[bytes, bytes]:
    key = (
        _HEAD
        + _tuple(CTA_EXPECT_TUPLE, ANY, to, (0, port))
        + _tuple(CTA_EXPECT_MASK, mask, _FULL, (0, 0xFFFF))
    )
    body = _tuple(CTA_EXPECT_MASTER, CLIENT, SERVER, (40000, 6667))
    if saved is not None:
        inner = _tuple(2, saved[0], ANY, (saved[1], 0))
        body += nested(CTA_EXPECT_NAT, tlv(1, b"\0\0\0\1"), inner)
    body += tlv(CTA_EXPECT_TIMEOUT, seconds.to_bytes(4))
    body += tlv(CTA_EXPECT_FLAGS, flags.to_bytes(4)) + tlv(CTA_EXPECT_CLASS, bytes(4))
    return key, body


class Kernel:
    """Holds expectations and one flow."""

    def __init__(self, master: tuple[bytes, bytes] | None = None) -> None:
        self.held: dict[bytes, bytes] = {}
        self.timers: list[int] = []
        self.refusals: deque[int] = deque()
        self.master = master or _master()

    def run(self, *records: tuple[bytes, bytes, float], word: str = RESTRICT) -> Result:
        self.wildcards = Wildcards(word)
        plan = CommitPlan(records, {}, wildcards=self.wildcards)
        while (batch := plan.next_batch()) is not None:
            refused, replies = [], []
            for index, message in enumerate(batch.messages):
                code, reply = self._answer(message)
                if code:
                    refused.append((index, code, ""))
                elif reply:
                    replies.append((index, reply))
            plan.report(batch, refused, replies)
        return plan.result

    def _answer(self, message: bytes) -> tuple[int, bytes]:
        kind = int.from_bytes(message[4:6], "little")
        if kind == restore.CT_GET:
            return 0, self._reply(0x100, *self.master)
        sent = nla.attributes(message, 20)
        key = _HEAD + sent[CTA_EXPECT_TUPLE] + sent.get(CTA_EXPECT_MASK, b"")
        known = next((k for k in self.held if k.startswith(key)), None)
        if kind == restore.EXP_NEW and message[7] & 2:  # NLM_F_EXCL
            if self.refusals:
                return self.refusals.popleft(), b""
            if known is not None:
                return errno.EEXIST, b""
            parts = [raw for k, raw in sent.items() if k not in (2, 3)]
            self.held[key] = b"".join(parts)
        elif known is None:
            return errno.ENOENT, b""
        elif kind == restore.EXP_NEW:
            self.timers.append(int.from_bytes(sent[CTA_EXPECT_TIMEOUT][4:]))
        elif kind == restore.EXP_DELETE:
            del self.held[known]
        else:
            return 0, self._reply(0x200, known, self.held[known])
        return 0, b""

    @staticmethod
    def _reply(kind: int, key: bytes, body: bytes) -> bytes:
        whole = key + body
        head = (16 + len(whole)).to_bytes(4, "little") + kind.to_bytes(2, "little")
        return head + b"\2\0" + bytes(8) + whole


def test_an_expectation_lives_as_long_as_it_would_have() -> None:
    kernel = Kernel()
    key, body = _expected(mask=_FULL, seconds=600)
    result = kernel.run((key, body, 100.0))
    assert (result.created, result.failures) == (1, 0)
    assert kernel.timers == [500]  # a create takes the policy of its helper


def test_one_that_would_be_over_is_not_put_there() -> None:
    kernel = Kernel()
    kernel.run((*_expected(mask=_FULL, seconds=60), 61.0))
    assert not kernel.held


def test_one_that_is_there_alike_gets_its_timer_and_any_other_is_replaced() -> None:
    kernel = Kernel()
    record = (*_expected(mask=_FULL), 0.0)
    kernel.run(record)
    again = kernel.run(record)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 1)
    changed = (*_expected(mask=_FULL, flags=1), 0.0)
    result = kernel.run(changed)
    assert (result.created, result.updated, result.unchanged) == (0, 1, 0)
    (held,) = kernel.held.values()
    assert nla.values(held)[CTA_EXPECT_FLAGS] == b"\0\0\0\1"


def test_one_that_another_master_still_expects_is_replaced() -> None:
    kernel = Kernel()
    record = (*_expected(mask=_FULL), 0.0)
    kernel.run(record)
    kernel.refusals.append(errno.EBUSY)
    result = kernel.run(record)
    assert (result.created, result.failures) == (1, 0)


def test_an_expectation_without_a_fit_master_says_so() -> None:
    for code, reason in (
        (errno.ENOENT, MASTER_ABSENT),
        (errno.EOPNOTSUPP, MASTER_WITHOUT_HELPER),
        (errno.EINVAL, "EINVAL"),
    ):
        kernel = Kernel()
        kernel.refusals.append(code)
        assert kernel.run((*_expected(mask=_FULL), 0.0)).failed == {reason: 1}
    key, body = _expected(mask=_FULL)
    assert Kernel().run((key[:20], body, 0.0)).failed == {MALFORMED: 1}


def test_a_wildcard_is_one_whose_source_is_masked_out() -> None:
    assert is_wildcard(_expected()[0])
    assert not is_wildcard(_expected(mask=_FULL)[0])
    assert not is_wildcard(_expected(mask="255.255.255.0")[0])
    assert not is_wildcard(_expected()[0][:60])


@pytest.mark.parametrize("word", WORDS)
def test_what_becomes_of_a_legitimate_wildcard(word: str) -> None:
    kernel = Kernel()
    result = kernel.run((*_expected(saved=(ANY, 4999)), 0.0), word=word)
    assert result.failures == 0
    assert bool(kernel.held) is (word != REFUSE)
    assert kernel.wildcards.not_committed == ({BY_POLICY: 1} if word == REFUSE else {})
    if word != REFUSE:
        assert kernel.timers == [LONGEST_S if word == RESTRICT else 1000]


@pytest.mark.parametrize(
    ("expected", "master", "reason"),
    [
        (_expected(), _master(state=7), MASTER_GONE),
        (_expected(to=THIRD), _master(), THIRD_HOST),
        (_expected(saved=(THIRD, 5000)), _master(), THIRD_HOST),
        (_expected(port=445), _master(), LOW_PORT),
        (_expected(saved=(CLIENT, 22)), _master(), LOW_PORT),
        (_expected(to=CLIENT, saved=(CLIENT, 5001)), _master(), ""),
    ],
)
def test_a_wildcard_that_leads_elsewhere_is_not_committed(
    expected: tuple[bytes, bytes], master: tuple[bytes, bytes], reason: str
) -> None:
    kernel = Kernel(master)
    result = kernel.run((*expected, 0.0))
    assert result.failures == 0
    assert kernel.wildcards.not_committed == ({reason: 1} if reason else {})
    assert bool(kernel.held) is not bool(reason)
    kernel = Kernel(master)
    kernel.run((*expected, 0.0), word=ACCEPT)
    assert kernel.held


def test_a_wildcard_without_its_master_is_not_committed() -> None:
    assert objection(*_expected(), None) == MASTER_GONE


def test_each_kind_of_refusal_is_written_down_once() -> None:
    wildcards = Wildcards(REFUSE)
    for _ in range(3):
        wildcards.untold()
        wildcards.uncommitted(BY_POLICY)
    assert len(wildcards.take_news()) == 2
    assert not wildcards.take_news()
    assert (wildcards.not_told, wildcards.not_committed) == (3, {BY_POLICY: 3})


def test_with_refuse_peers_are_not_told_of_wildcards() -> None:
    for word, told in ((REFUSE, False), (RESTRICT, True)):
        own = Own()
        own.wildcards.word = word
        own.apply([(EXP_NEW, *_expected(), b"\0\0\0\1", 1)], 1.0)
        own.begin_review()
        own.fill([(EXP_DUMP, *_expected(), b"\0\0\0\1", 1)])
        own.end_review()
        assert bool(own.expectations.bodies) is told
        assert own.wildcards.not_told == int(not told)


@pytest.mark.parametrize(
    ("word", "seconds", "reason"), [(REFUSE, 60, BY_POLICY), (ACCEPT, 0, ENDED)]
)
def test_what_is_left_out_on_purpose_is_said(
    word: str, seconds: int, reason: str
) -> None:
    """Seed 7010 of --warm: a warm standby believed in a copy."""
    wildcards = Wildcards()
    wildcards.word = word
    expecting = Expecting(Result(), wildcards, lambda _: 60)
    key, body = _expected(seconds=seconds)
    expecting.add((key, body, 0.0))
    assert expecting.messages(10, lambda count: count) == ([], [])
    assert expecting.omitted == {key: reason}
