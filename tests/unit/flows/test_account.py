"""Endings as lines: JSON by its schema, text as conntrackd's statistics mode."""

import json
import time

from syncd.flows.account import JsonAccounts, TextAccounts
from syncd.flows.ending import Ending, lost_ending
from syncd.flows.reader import RecordReader
from syncd.flows.text import Clock

from tests.unit.flows.recorded import recorded
from tests.unit.flows.test_ending import endings_of
from tests.unit.test_schema import SCHEMA, breaches

CLOCK = Clock(lambda: 1_795_253_203_368_440_123, time.gmtime)
SCENARIOS = sorted({one.scenario for one in recorded()})
ENDED = [(one.scenario, one) for one in recorded() if one.message[4:6] == b"\2\1"]


def objects(endings: list[Ending]) -> list[dict[str, object]]:
    return [json.loads(line) for line in JsonAccounts("fw1", CLOCK).lines(endings)]


def test_every_recorded_end_is_one_object_of_the_schema() -> None:
    endings = [one for scenario in SCENARIOS for one in endings_of(scenario)]
    found = objects(endings)
    assert len(found) == len(endings) == len(ENDED)
    for one in found:
        assert not breaches(SCHEMA, one)
        assert {"end", "reason", "node"} <= set(one)


def test_times_and_counters_are_the_kernels() -> None:
    (one,) = objects(endings_of("tcp4_acct_tstamp"))
    assert one["start"] == 1795216633.884986
    assert one["end"] == 1795216635.889162
    counters = {"orig": {"packets": 8, "bytes": 439}}
    assert one["counters"] == counters | {"reply": {"packets": 6, "bytes": 335}}


def test_without_the_kernels_times_the_end_is_now_and_the_start_is_not_told() -> None:
    (one,) = objects(endings_of("udp4_timeout"))
    assert one["end"] == 1795253203.368440
    assert "start" not in one


def test_what_the_table_knew_is_there() -> None:
    helpers = [one.get("helper") for one in objects(endings_of("kitchen_sink_ftp4"))]
    assert "ftp" in helpers
    (labelled,) = objects(endings_of("labels"))
    assert labelled["labels"] == "02000000000000004000000000000000"


def test_a_flow_that_was_taken_over_says_so() -> None:
    (one,) = endings_of("udp4_timeout")
    (told,) = objects([one._replace(taken_over=True)])
    assert told["taken_over"] is True
    assert "taken_over" not in objects([one])[0]


def test_a_lost_flow_has_no_counters() -> None:
    _, key, body, _, _ = RecordReader().read_one(
        recorded("tcp4_acct_tstamp")[0].message
    )
    (one,) = objects([lost_ending(key, body, taken_over=False)])
    assert one["reason"] == "lost"
    assert "counters" not in one
    assert not breaches(SCHEMA, one)


def test_the_text_is_a_date_a_tab_and_the_line_without_the_time_left() -> None:
    lines = TextAccounts(CLOCK).lines(endings_of("udp4") + endings_of("udp4_timeout"))
    date = "Sat Nov 21 09:26:43 2026\t"
    ends = "src=10.77.2.10 dst=10.77.1.10 sport=7001 dport"
    assert lines == [
        f"{date}udp      17 src=10.77.1.10 dst=10.77.2.10 sport=53545 dport=7001 "
        f"{ends}=53545 [ASSURED]",
        f"{date}udp      17 src=10.77.1.10 dst=10.77.2.10 sport=42114 dport=7001 "
        f"{ends}=42114",
    ]


def test_what_is_no_message_is_counted() -> None:
    json_accounts, text_accounts = JsonAccounts("fw1", CLOCK), TextAccounts(CLOCK)
    (one,) = endings_of("udp4_timeout")
    broken = one._replace(message=one.message[:30])
    assert len(json_accounts.lines([broken, one])) == json_accounts.malformed == 1
    assert len(text_accounts.lines([broken, one])) == text_accounts.malformed == 1
