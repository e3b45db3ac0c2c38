"""What was just committed is not put into the kernel again."""

from syncd.flows.committed import Committed
from syncd.flows.restore import estimate_s

from tests.unit.flows.test_restore import tcp_protoinfo
from tests.unit.replication.talk import flow_body, flow_key

RECORD = (flow_key(1), flow_body(1, 3600), 10.0)
HELD = {flow_key(1): flow_body(1, 3590)}


def committed() -> Committed:
    made = Committed()
    made.note([RECORD], 100.0)
    return made


def test_a_record_that_was_just_committed_is_settled() -> None:
    assert committed().outstanding([RECORD], HELD, set(), 110.0) == []


def test_after_a_minute_everything_is_looked_at_again() -> None:
    assert committed().outstanding([RECORD], HELD, set(), 161.0) == [RECORD]


def test_new_state_of_the_flow_is_outstanding() -> None:
    told = (flow_key(1), flow_body(1, 3000), 0.0)
    assert committed().outstanding([told], HELD, set(), 101.0) == [told]


def test_a_flow_that_the_kernel_lost_is_outstanding() -> None:
    assert committed().outstanding([RECORD], {}, set(), 101.0) == [RECORD]


def test_a_flow_with_another_reply_in_the_kernel_is_outstanding() -> None:
    other = {flow_key(1): flow_body(2, 3600)}
    assert committed().outstanding([RECORD], other, set(), 101.0) == [RECORD]


def test_a_flow_whose_timer_runs_low_is_outstanding() -> None:
    short = (flow_key(1), flow_body(1, 60), 10.0)
    made = Committed()
    made.note([short], 100.0)
    assert made.outstanding([short], {flow_key(1): short[1]}, set(), 101.0) == [short]


def test_a_flow_of_whose_timer_less_than_half_is_left_is_outstanding() -> None:
    for elapsed_s, settled in ((1800.0, True), (1801.0, False)):
        record = (flow_key(1), flow_body(1, 3600), elapsed_s)
        made = Committed()
        made.note([record], 100.0)
        outstanding = made.outstanding([record], HELD, set(), 101.0)
        assert outstanding == ([] if settled else [record])


def test_a_settled_connection_has_a_timer_no_shorter_than_the_estimate() -> None:
    for flags in (0x23, 0x33):
        for stored_s in (60, 100, 300, 301, 3600, 432_000):
            body = flow_body(1, stored_s) + tcp_protoinfo(3, flags, 0x23)
            for began_s in (0.0, 35.0, 125.0, 216_000.0):
                then, now = ((flow_key(1), body, began_s + at) for at in (0.0, 55.0))
                made = Committed()
                made.note([then], 100.0)
                held = {flow_key(1): body}
                if made.outstanding([now], held, set(), 155.0) == []:
                    assert estimate_s(*then) - 55 >= estimate_s(*now)


def test_what_failed_is_forgotten() -> None:
    made = committed()
    made.forget()
    assert made.outstanding([RECORD], HELD, set(), 101.0) == [RECORD]


def test_a_flow_of_which_the_kernel_told_something_is_outstanding() -> None:
    disturbed = {flow_key(1)}
    assert committed().outstanding([RECORD], HELD, disturbed, 101.0) == [RECORD]
    assert committed().outstanding([RECORD], HELD, None, 101.0) == [RECORD]
