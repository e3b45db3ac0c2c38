"""Lines by templates are the lines that each message alone would give."""

import time
from itertools import product

import pytest
from syncd.errors import RecordError
from syncd.flows.printer import Printer, Sieve, message_of
from syncd.flows.text import Clock, Wishes
from syncd.flows.wanted import Filters, read_filters

from tests.messages import Maker, varied

SECOND_NS = 1_000_000_000
CLOCK = Clock(lambda: 1_795_216_618 * SECOND_NS, time.gmtime)
LABELS = {0: "zero", 2: "two", 9: "nine-9"}
OUTPUTS = ("text", "xml", "save", "proc", "json")
WISHES = [
    Wishes(CLOCK, events, words, words, words, words, labels)
    for events, words, labels in product((False, True), (False, True), (None, LABELS))
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_template_says_what_a_reading_of_each_message_says(output: str) -> None:
    maker = Maker(1)
    for wishes in WISHES:
        kept = Printer(output, wishes)
        for number in range(120):
            data = maker.message()
            assert kept.line(data) == Printer(output, wishes).line(data)
            for seed in range(3):
                other = varied(data, number * 7 + seed)
                assert kept.line(other) == Printer(output, wishes).line(other), other


def test_many_flows_of_one_kind_leave_one_template() -> None:
    maker = Maker(5)
    data = maker.flow()
    printer = Printer("text", WISHES[0])
    alike = [varied(data, seed) for seed in range(500)]
    assert len(printer.lines(alike)) == 500
    assert printer.templates == 1


def test_templates_are_bounded() -> None:
    maker = Maker(6)
    printer = Printer("text", WISHES[0])
    for _ in range(6000):
        printer.line(maker.flow())
    assert printer.templates <= 4096


def test_a_message_that_is_none_is_counted_and_the_others_are_printed() -> None:
    maker = Maker(2)
    good = [maker.flow() for _ in range(3)]
    printer = Printer("text", WISHES[0])
    bad = [b"", b"x" * 30, good[0][:-4], good[0][:4] + b"\0\5" + good[0][6:]]
    assert len(printer.lines([good[0], *bad, good[1], good[2]])) == 3
    assert printer.malformed == len(bad)
    with pytest.raises(RecordError):
        printer.line(bad[1])


def test_a_cut_message_raises_nothing_but_a_record_error() -> None:
    maker = Maker(3)
    for output in OUTPUTS:
        printer = Printer(output, WISHES[-1])
        for _ in range(60):
            data = maker.message()
            for at in range(16, len(data), 5):
                cut = at.to_bytes(4, "little") + data[4:at]
                printer.lines([cut])


def test_a_row_of_a_table_is_printed_like_its_message() -> None:
    maker = Maker(4)
    printer = Printer("text", WISHES[0])
    data = maker.flow()
    first = 20 + (int.from_bytes(data[20:22], "little") + 3 & ~3)
    key, body = data[16:first], data[first:]
    if data[22] == 1:  # the original tuple came first
        assert printer.line(message_of(key, body)) == printer.line(data)


FILTERS = (
    *({"proto": "tcp"}, {"family": "ipv6"}, {"state": "established"}, {"zone": 0}),
    *({"mark": "0/1"}, {"src": "0.0.0.0/1"}, {"dst": "::/1"}),
    *({"status": "assured"}, {"status": "!assured,unreplied"}, {"label": "2"}),
    *({"any-nat": True}, {"src-nat": True}, {"dst-nat": "128.0.0.0/1"}),
    *({"reply-src": "8000::/1"}, {"orig-zone": 0}, {"reply-zone": 0}),
    {"proto": "tcp", "mark": "1/1", "src": "128.0.0.0/1", "status": "seen_reply"},
)


@pytest.mark.parametrize("given", FILTERS, ids=str)
def test_a_sieve_says_of_alike_messages_what_it_says_of_each(
    given: dict[str, object],
) -> None:
    filters = read_filters(given)
    kept, maker, passed = Sieve(filters), Maker(8), 0
    for number in range(400):
        data = maker.message()
        for other in (data, *(varied(data, number * 5 + seed) for seed in range(4))):
            answer = kept.passes(other)
            assert answer == Sieve(filters).passes(other)
            passed += answer
    assert 0 < passed < 2000


def test_a_sieve_without_filters_lets_everything_pass() -> None:
    maker = Maker(9)
    assert all(Sieve(None).passes(maker.message()) for _ in range(50))
    assert all(Sieve(Filters()).passes(maker.message()) for _ in range(50))
