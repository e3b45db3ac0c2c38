"""What the filter wants stands in the own tables, whatever came first."""

from collections.abc import Iterable
from ipaddress import ip_address

from syncd.config_filter import Choice, FilterConfig
from syncd.flows.admission import LEFT_S, Admission
from syncd.flows.audit import Audit, Findings
from syncd.flows.filter import RecordFilter
from syncd.flows.nla import nested, tlv
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CTA_TUPLE_ORIG,
    DUMP,
    END,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
    Record,
    mask_of,
)

from tests.unit.flows.recorded import recorded
from tests.unit.flows.shapes import (
    ASSURED,
    CLIENT,
    CONFIRMED,
    FIREWALL,
    SEEN_REPLY,
    SERVER,
    SRC_NAT,
    Shape,
)

VIP = "203.0.113.1"
AGE_S = 10.0
EVERYTHING = FilterConfig(own_addresses="accept")
MARKED = FilterConfig(marks=Choice(accept=((1, 1),)), own_addresses="accept")
OLD = FilterConfig(min_age_s=AGE_S, own_addresses="accept")
TO_VIP = Shape(dst=VIP, reply_src=VIP)
MASQUERADED = Shape(reply_dst=VIP, status=CONFIRMED | SRC_NAT)
FORWARDED = Shape(src=CLIENT, dst=VIP, reply_src=SERVER)  # DNAT


def packed(*texts: str) -> frozenset[bytes]:
    return frozenset(ip_address(text).packed for text in texts)


class Kernel:
    """An admission with its own tables, and a clock."""

    def __init__(self, config: FilterConfig, *addresses: str) -> None:
        self.now = 1000.0
        self.own = Own()
        self.admission = Admission(self.own, RecordFilter(config))
        self.has(*addresses)

    def has(self, *addresses: str) -> None:
        """The node's addresses from now on."""
        self.admission.use_addresses(packed(*addresses), self.now)

    def say(self, kind: int, *shapes: Shape) -> None:
        self.admission.events([shape.record(kind) for shape in shapes], self.now)

    def dump(self, *shapes: Shape, more: Iterable[Record] = ()) -> None:
        self.admission.begin_dump(self.now)
        self.admission.dump_part([s.record(DUMP) for s in shapes], self.now)
        self.admission.dump_part(list(more), self.now)
        self.admission.end_dump(self.now)

    def after(self, seconds: float) -> None:
        self.now += seconds
        while self.admission.deadline() <= self.now:
            self.admission.tick(self.now)

    def __contains__(self, shape: Shape) -> bool:
        return shape.key in self.own.flows.bodies

    @property
    def told(self) -> set[bytes]:
        """What peers will be told that they have not heard of."""
        return set(self.own.flows.marks)


def test_without_a_filter_all_comes_in() -> None:
    kernel = Kernel(EVERYTHING, VIP)
    kernel.say(NEW, TO_VIP)
    kernel.dump(TO_VIP, Shape())
    assert TO_VIP in kernel
    assert Shape() in kernel


# A verdict that changes


def test_a_flow_that_is_marked_later_is_asked_for_and_comes() -> None:
    kernel = Kernel(MARKED)
    kernel.say(NEW, Shape())
    assert not kernel.told
    kernel.say(UPDATE, Shape(mark=1, state=None))
    assert kernel.own.lookups
    kernel.say(DUMP, Shape(mark=1))  # the reply
    assert Shape() in kernel
    assert kernel.admission.ignored_by_key() == {"marks": 1}


def test_a_flow_whose_mark_goes_is_ended_at_the_peers() -> None:
    kernel = Kernel(MARKED)
    kernel.say(NEW, Shape(mark=1))
    kernel.own.flows.marks.clear()  # peers know it
    kernel.say(UPDATE, Shape(mark=0))
    assert Shape() not in kernel
    assert kernel.told == {Shape().key}


def test_an_update_that_tells_no_mark_keeps_the_verdict() -> None:
    kernel = Kernel(MARKED)
    kernel.say(NEW, Shape(mark=1))
    kernel.say(UPDATE, Shape(state=7))
    assert kernel.own.flows.bodies[Shape().key] == Shape(mark=1, state=7).body


def test_a_flow_leaves_its_state_and_comes_back() -> None:
    config = FilterConfig(tcp_states=Choice(accept=(3,)), own_addresses="accept")
    kernel = Kernel(config)
    kernel.say(NEW, Shape(state=1))
    assert Shape() not in kernel
    kernel.say(UPDATE, Shape(state=3))
    kernel.say(DUMP, Shape(state=3))
    assert Shape() in kernel
    kernel.say(UPDATE, Shape(state=4))
    assert Shape() not in kernel


def test_a_withdrawn_flow_ends_even_while_ends_are_held_back() -> None:
    kernel = Kernel(MARKED)
    kernel.say(NEW, Shape(mark=1))
    kernel.own.flows.hold()
    kernel.say(UPDATE, Shape(mark=0))
    assert Shape() not in kernel


def test_another_filter_withdraws_at_once_and_takes_in_with_the_next_dump() -> None:
    kernel = Kernel(EVERYTHING)
    marked = Shape(sport=2, mark=1)
    kernel.say(NEW, Shape(), marked)
    kernel.admission.change_filter(RecordFilter(MARKED))
    kernel.after(0)
    assert Shape() not in kernel
    assert marked in kernel
    kernel.admission.change_filter(RecordFilter(EVERYTHING))
    kernel.dump(Shape(), marked)
    assert Shape() in kernel


# Dumps beside events


def test_a_dump_that_is_older_than_an_event_does_not_bring_back() -> None:
    kernel = Kernel(MARKED)
    kernel.admission.begin_dump(kernel.now)
    kernel.say(NEW, Shape(mark=1))
    kernel.say(UPDATE, Shape(mark=0))
    kernel.admission.dump_part([Shape(mark=1).record(DUMP)], kernel.now)
    kernel.admission.end_dump(kernel.now)
    assert Shape() not in kernel


def test_a_dump_that_is_older_than_an_event_does_not_withdraw() -> None:
    kernel = Kernel(MARKED)
    kernel.admission.begin_dump(kernel.now)
    kernel.say(NEW, Shape(mark=1))
    kernel.admission.dump_part([Shape().record(DUMP)], kernel.now)
    kernel.admission.end_dump(kernel.now)
    assert Shape() in kernel
    assert Shape().key in kernel.own.lookups


def test_a_dump_withdraws_what_an_event_that_was_lost_would_have() -> None:
    kernel = Kernel(MARKED)
    kernel.say(NEW, Shape(mark=1))
    kernel.dump(Shape())
    assert Shape() not in kernel


# Own addresses


def test_what_begins_or_ends_at_the_node_is_left_out() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL, VIP)
    outgoing = Shape(src=FIREWALL, reply_dst=FIREWALL)
    kernel.say(NEW, TO_VIP, outgoing, MASQUERADED.but(sport=2), FORWARDED.but(sport=3))
    assert TO_VIP not in kernel
    assert outgoing not in kernel
    assert MASQUERADED.but(sport=2) in kernel
    assert FORWARDED.but(sport=3) in kernel
    assert kernel.admission.ignored_by_key() == {"own_addresses": 2}


def test_an_address_that_comes_withdraws_its_flows_in_steps() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL)
    shapes = [TO_VIP.but(sport=number + 1) for number in range(5000)]
    kernel.say(NEW, *shapes, MASQUERADED)
    kernel.has(FIREWALL, VIP)
    assert kernel.admission.deadline() <= kernel.now
    kernel.admission.tick(kernel.now)
    assert 1 < len(kernel.own.flows) < 5000
    kernel.after(0)
    assert list(kernel.own.flows.bodies) == [MASQUERADED.key]


def test_what_an_address_leaves_behind_is_not_told() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL, VIP)
    kernel.say(NEW, TO_VIP)
    kernel.has(FIREWALL)
    kernel.say(UPDATE, TO_VIP)
    kernel.say(DUMP, TO_VIP)
    kernel.say(NEW, TO_VIP.but(sport=2))  # packets are still on their way to us
    kernel.after(2 * LEFT_S)
    kernel.dump(TO_VIP)
    kernel.say(UPDATE, TO_VIP)
    assert not kernel.own.flows.bodies
    assert not kernel.own.lookups


def test_what_begins_long_after_an_address_left_passes_through() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL, VIP)
    kernel.say(NEW, TO_VIP)
    kernel.has(FIREWALL)
    kernel.after(LEFT_S + 1)
    through = TO_VIP.but(sport=2)
    kernel.say(NEW, through)
    kernel.say(UPDATE, through, TO_VIP)
    kernel.dump(through, TO_VIP)
    assert through in kernel
    assert TO_VIP not in kernel
    kernel.has(FIREWALL, VIP)  # it is back
    kernel.after(0)
    assert through not in kernel


def test_an_address_is_forgotten_when_nothing_is_left_behind() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL, VIP)
    kernel.has(FIREWALL)
    kernel.dump()  # too early to tell
    kernel.say(UPDATE, TO_VIP)
    assert not kernel.own.lookups
    kernel.after(LEFT_S + 1)
    kernel.dump(Shape())
    kernel.say(UPDATE, TO_VIP)
    assert kernel.own.lookups


def test_an_address_that_hops_away_and_back_moves_nothing() -> None:
    kernel = Kernel(FilterConfig(), FIREWALL, VIP)
    kernel.say(NEW, TO_VIP, MASQUERADED)
    kernel.own.flows.marks.clear()
    for addresses in ((FIREWALL,), (FIREWALL, VIP)) * 3:
        kernel.has(*addresses)
        kernel.say(UPDATE, TO_VIP)
        kernel.after(1)
    assert not kernel.told
    assert MASQUERADED in kernel


# Age


def test_a_flow_is_told_when_it_is_old_or_assured() -> None:
    kernel = Kernel(OLD)
    long, assured, short = (Shape(sport=number) for number in (1, 2, 3))
    kernel.say(NEW, long, assured, short)
    assert not kernel.told
    kernel.say(UPDATE, assured.but(status=CONFIRMED | ASSURED))
    assert kernel.told == {assured.key}
    kernel.after(AGE_S / 2)
    kernel.say(END, short)
    kernel.after(AGE_S)
    assert kernel.told == {assured.key, long.key}
    assert kernel.admission.ignored_by_key() == {"min_age_s": 1}


def test_what_was_told_stays_told_and_its_tuple_may_begin_anew() -> None:
    kernel = Kernel(OLD)
    kernel.say(NEW, Shape())
    kernel.after(2 * AGE_S)
    kernel.say(UPDATE, Shape(status=CONFIRMED | SEEN_REPLY))
    kernel.say(NEW, Shape())  # a merged event of reliable_events
    assert Shape() in kernel
    kernel.say(NEW, Shape(ident=2))
    assert Shape() not in kernel


def test_a_flow_that_waits_is_judged_again_when_it_is_due() -> None:
    kernel = Kernel(OLD)
    kernel.say(NEW, TO_VIP)
    config = FilterConfig(min_age_s=AGE_S)
    kernel.admission.change_filter(RecordFilter(config))
    kernel.has(VIP)
    kernel.after(2 * AGE_S)
    assert not kernel.told
    assert kernel.admission.ignored_by_key() == {"own_addresses": 1}


def test_without_min_age_nobody_waits_any_more() -> None:
    kernel = Kernel(OLD)
    kernel.say(NEW, Shape())
    kernel.admission.change_filter(RecordFilter(EVERYTHING))
    kernel.after(0.5)
    assert Shape() in kernel


def test_a_dump_shows_the_young_and_those_that_ended_unheard() -> None:
    kernel = Kernel(OLD)
    kernel.say(NEW, Shape())
    found, assured = Shape(sport=2), Shape(sport=3, status=CONFIRMED | ASSURED)
    kernel.dump(found, assured)
    assert kernel.told == {assured.key}
    kernel.after(2 * AGE_S)
    assert kernel.told == {assured.key, found.key}


def test_a_dump_that_is_older_than_an_end_leaves_nobody_waiting() -> None:
    kernel = Kernel(OLD)
    kernel.admission.begin_dump(kernel.now)
    kernel.say(NEW, Shape())
    kernel.say(END, Shape())
    kernel.admission.dump_part([Shape().record(DUMP)], kernel.now)
    kernel.admission.end_dump(kernel.now)
    kernel.after(2 * AGE_S)
    assert not kernel.told


def test_what_is_planted_for_a_peer_neither_waits_nor_comes_in() -> None:
    kernel = Kernel(OLD)
    kernel.own.plant([(Shape().key, Shape().body)])
    kernel.dump(Shape())
    assert not kernel.admission.young.flows
    assert Shape() not in kernel
    kernel.say(NEW, Shape(ident=2))  # the kernel made it itself
    kernel.after(2 * AGE_S)
    assert Shape() in kernel


def test_an_audit_finds_no_fault_with_those_who_wait() -> None:
    kernel = Kernel(OLD)
    unheard = Shape(sport=2)  # it began while nobody listened
    kernel.say(NEW, Shape())

    def audit() -> Findings:
        admission, now = kernel.admission, kernel.now
        audit = Audit(
            kernel.own, lambda k, b: admission.admits(k, b, now), admission.events
        )
        records = [shape.record(DUMP) for shape in (Shape(), unheard)]
        audit.compare(records)
        audit.judge(audit.take_suspects(9), {r[1]: r for r in records}, now)
        return audit.found

    assert audit().unknown == 1
    assert audit().differences == 0
    assert not kernel.told
    kernel.after(2 * AGE_S)
    assert kernel.told == {Shape().key, unheard.key}


# Expectations


def expectation(master: Shape) -> tuple[bytes, bytes]:
    """Key and body of what a helper expects."""
    tuple_ = master.key[4 : 4 + master.key[4]]
    body = nested(1, tuple_[4:]) + tlv(6, b"ftp\0")
    return b"\x02\0\0\0" + nested(2, tuple_[4:]) + nested(3, tuple_[4:]), body


def expected(kind: int, master: Shape) -> Record:
    key, body = expectation(master)
    return kind, key, body, b"\0\0\0\x05", mask_of(body)


def test_an_expectation_waits_for_a_master_that_is_wanted() -> None:
    kernel = Kernel(MARKED)
    assert CTA_TUPLE_ORIG == 1
    kernel.admission.events([expected(EXP_NEW, Shape())], kernel.now)
    assert not kernel.own.expectations.bodies
    assert Shape().key in kernel.own.lookups
    kernel.say(NEW, Shape(mark=1))
    assert list(kernel.own.expectations.bodies) == [expectation(Shape())[0]]
    kernel.say(UPDATE, Shape(mark=0))
    assert not kernel.own.expectations.bodies
    kernel.say(DUMP, Shape(mark=1))
    assert kernel.admission.reread


def test_a_dump_may_show_the_master_of_an_expectation_that_waited_as_it_was() -> None:
    """Seed 10031457: its sequence adjustment moved while the dump was read."""
    kernel, shape = Kernel(MARKED), Shape(mark=1)
    kernel.admission.begin_dump(kernel.now)
    met = [expected(EXP_NEW, shape), expected(EXP_END, shape)]
    kernel.admission.events(met, kernel.now)
    kernel.own.lookups.clear()  # the flow was looked up where it is not
    kernel.admission.dump_part([shape.record(DUMP)], kernel.now)
    kernel.admission.end_dump(kernel.now)
    assert shape.key in kernel.own.lookups


def test_an_expectation_that_ends_waits_no_longer() -> None:
    kernel = Kernel(MARKED)
    kernel.admission.events([expected(EXP_NEW, Shape())], kernel.now)
    kernel.admission.events([expected(EXP_END, Shape())], kernel.now)
    kernel.say(NEW, Shape(mark=1))
    assert not kernel.own.expectations.bodies


def test_an_expectation_comes_with_a_master_that_becomes_old_enough() -> None:
    kernel = Kernel(OLD)
    kernel.say(NEW, Shape())
    kernel.admission.events([expected(EXP_NEW, Shape())], kernel.now)
    kernel.after(2 * AGE_S)
    assert kernel.own.expectations.bodies


def test_recorded_expectations_of_a_dnat_to_an_own_address_stay() -> None:
    """The master's original destination is ours, who answers is the server."""
    messages = [said.message for said in recorded("ftp4_active_masquerade")]
    records = RecordReader().read(messages)
    kernel = Kernel(FilterConfig(), "10.77.2.1")
    seen = False
    for record in records:
        kernel.admission.events([record], kernel.now)
        seen |= bool(kernel.own.expectations.bodies)
    assert seen
    assert kernel.admission.ignored_by_key() == {}
