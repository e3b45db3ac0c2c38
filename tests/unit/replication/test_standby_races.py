"""What happens while a warm standby's requests are on their way.

Each of these was found by the simulation (docs/testing.md) or on real kernels.
"""

import pytest
from syncd.flows import nla
from syncd.flows.audit import Audit
from syncd.flows.commit import IN_THE_WAY
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.own import Own
from syncd.flows.planting import Bed
from syncd.flows.record import (
    CANONICAL,
    CTA_HELP,
    CTA_MARK,
    END,
    EXP_DUMP,
    NEW,
    UPDATE,
    Record,
    with_zone,
)
from syncd.replication.peer import PeerState
from syncd.replication.steps import Task

from tests.unit.flows.recorded import announced
from tests.unit.replication.talk import flow_body, flow_key
from tests.unit.replication.test_standby import LONG_S, Scene, keys
from tests.unit.replication.warm_kernel import IDENT, carry_out, next_plan, records

_MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7


def test_what_ends_here_and_lives_on_at_a_peer_is_a_copy_soon() -> None:
    scene = Scene()
    scene.work()
    record: Record = (NEW, flow_key(1), flow_body(1), IDENT, _MASK)
    scene.own.apply([record], scene.kernel.now)
    scene.tell(1)
    scene.work()
    scene.own.apply([(END, flow_key(1), flow_body(1), IDENT, 0)], scene.kernel.now)
    scene.run(4)
    assert scene.held == keys(1) == set(scene.own.planted)


def test_what_is_brought_forward_is_looked_up_when_the_kernel_has_done_it() -> None:
    scene = Scene()
    scene.work()
    young = flow_body(1).replace(b"\0\0\0\x0e", b"\0\0\0\x08")  # not answered yet
    scene.own.apply([(NEW, flow_key(1), young, IDENT, _MASK)], scene.kernel.now)
    scene.kernel.now += 3  # the peer has been in step for a while
    scene.tell(1)
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.ADVANCE
    assert not scene.own.lookups
    scene.standby.advanced(step.keys)
    assert list(scene.own.lookups) == [flow_key(1)]


def test_a_copy_that_meets_a_packet_and_ends_at_once_is_planted_again() -> None:
    """Seed 6 of --warm: it was neither own nor a copy any more."""
    scene = Scene()
    scene.tell(1)
    scene.work()
    told = (UPDATE, flow_key(1), flow_body(1), IDENT, _MASK)
    ended = (END, flow_key(1), flow_body(1), IDENT, 0)
    scene.own.apply([told, ended], scene.kernel.now)
    scene.own.lookups.clear()  # the kernel has no answer
    del scene.kernel.entries[flow_key(1)]
    scene.work()
    assert scene.held == keys(1) == set(scene.own.planted)


@pytest.mark.parametrize("promoting", [False, True])
def test_what_ran_out_while_a_peer_was_lost_comes_back_with_him(
    *, promoting: bool
) -> None:
    """Seed 4022861: he tells it as before, so nothing had touched it."""
    scene = Scene()
    scene.tell(1, seconds=30)
    scene.work()
    scene.peer.state = PeerState.LOST
    scene.peer.heard_at = scene.kernel.now
    scene.run(2 * LONG_S)
    assert not scene.held
    scene.peer.state = PeerState.IN_STEP
    scene.peer.heard_at = scene.kernel.now
    if promoting:
        scene.standby.look(scene.kernel.now)
        scene.standby.hurry()
    scene.run(1.0, 0.5)
    assert scene.held == keys(1)


def test_a_dump_that_shows_what_is_being_planted_does_not_make_it_own() -> None:
    scene = Scene()
    scene.tell(1)
    plan = next_plan(scene.standby, scene.kernel)
    scene.own.begin_dump()
    carry_out(plan, scene.kernel)
    shown = records(scene.kernel)
    scene.own.fill(shown)  # a thread waits for the answers meanwhile
    audit = Audit(scene.own, lambda _key, _body: True)
    audit.compare(shown)
    audit.judge([flow_key(1)], {flow_key(1): shown[0]}, scene.kernel.now)
    scene.standby.planted(plan, scene.kernel.now)
    scene.own.end_dump(scene.kernel.now)
    assert not scene.own.flows.bodies
    assert set(scene.own.planted) == keys(1)
    assert not scene.own.sown


def test_copies_written_while_the_daemon_was_stopped_are_still_copies() -> None:
    scene = Scene()
    scene.tell(1)
    plan = next_plan(scene.standby, scene.kernel)
    carry_out(plan, scene.kernel)
    scene.kernel.now += 10
    scene.standby.planted(plan, scene.kernel.now, 10.0)
    scene.work()
    scene.end(1)
    scene.run(1)
    assert scene.standby.counts.alive == 0
    assert not scene.held
    assert not scene.own.flows.bodies


def test_what_changes_beside_the_masks_is_not_written_again() -> None:
    scene = Scene()
    scene.standby.masks = Masks(mark_mask=0xFF)
    for mark in (0x1234, 0x5634, 0x5678):
        body = flow_body(1) + nla.tlv(CTA_MARK, mark.to_bytes(4))
        scene.peer.flows.put([flow_key(1), body], scene.kernel.now)
        scene.work()
        assert scene.own.planted[flow_key(1)] == body
    assert (scene.kernel.created, scene.kernel.changed) == (1, 1)


def test_what_a_restarted_peer_has_left_over_does_not_change_a_new_flow() -> None:
    """It tells all it has before it is in step, and gives up what is ours then."""
    scene = Scene()
    scene.peer.state = PeerState.SYNCING
    scene.work()
    for number in (1, 2):
        young = flow_body(number).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
        record: Record = (NEW, flow_key(number), young, IDENT, _MASK)
        scene.own.apply([record], scene.kernel.now)
    scene.tell(1, 2)
    scene.work()
    scene.peer.state = PeerState.IN_STEP
    scene.work()
    assert scene.standby.counts.advanced == 0
    scene.end(1)
    scene.run(3)
    assert scene.standby.counts.advanced == 1  # of what it still has it has seen more


def test_an_expectation_is_own_whatever_zone_its_master_is_said_to_have() -> None:
    """Seed 86 of --warm: of two masters with one tuple this node knew the other."""
    scene = Scene()
    scene.work()
    new = announced("ftp4_passive")
    scene.own.apply([new], scene.kernel.now)
    zoned = with_zone(new[1], b"\0\7")
    scene.peer.expectations.put([zoned, new[2]], scene.kernel.now)
    scene.standby.look(scene.kernel.now)
    assert scene.standby.next_step(scene.kernel.now) is None
    scene.standby.miss([zoned], scene.kernel.now)
    assert scene.standby.idle


@pytest.mark.parametrize("zone", [b"", b"\0\7"])
def test_a_dump_does_not_bring_back_an_expectation_that_was_deleted(
    zone: bytes,
) -> None:
    """Seed 40574 of --warm: it was shown before its end, read after it."""
    scene = Scene()
    _, plain, body, ident, mask = announced("ftp4_passive")
    key = with_zone(plain, zone) if zone else plain
    scene.own.plant([(key, body)])
    scene.own.begin_dump()
    scene.standby.deleted([key])
    scene.own.fill([(EXP_DUMP, plain, body, ident, mask)])
    scene.own.end_dump(scene.kernel.now)
    assert not scene.own.expectations.bodies


def test_what_is_being_deleted_is_not_adopted() -> None:
    """Seed 40234 of --warm: a commit had found it, and the answer came after that."""
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.own.flows.disturbed = set()
    assert scene.standby.register.deletable(list(keys(1))) == list(keys(1))
    scene.own.adopt([(flow_key(1), flow_body(1), 0.0)])
    assert not scene.own.flows.bodies


def test_what_became_own_while_its_copy_waited_is_not_created() -> None:
    """Seed 5006657: the own flow ended meanwhile, and the copy was taken for it."""
    scene = Scene()
    scene.tell(2)
    scene.work()
    scene.tell(1)
    scene.standby.audit(keys(2))
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.LOOK
    assert scene.standby.waiting == 1
    record: Record = (NEW, flow_key(1), flow_body(1), IDENT, _MASK)
    scene.own.apply([record], scene.kernel.now)
    scene.standby.looked(step.keys, scene.kernel.show(step.keys), scene.kernel.now)
    scene.work()
    assert scene.held == keys(2) == set(scene.own.planted)


def test_what_turns_out_to_be_own_goes_the_way_of_all_that_is() -> None:
    """Seed 6161 of --warm: its expectations waited for it, and nobody told them."""
    scene = Scene()
    taken: list[Record] = []
    scene.standby.take_own = lambda records, _now: taken.extend(records)
    scene.tell(1)
    scene.work()
    scene.kernel.packet(flow_key(1), 3600)
    scene.standby.audit(keys(1))
    scene.work()
    assert [record[1] for record in taken] == [flow_key(1)]
    assert not scene.own.planted


def test_an_answer_that_is_older_than_an_event_says_nothing() -> None:
    """Seed 9588 of --warm: the copy had met a packet, was shown, and ended."""
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.kernel.packet(flow_key(1), 3600)
    shown = scene.kernel.show([flow_key(1)])
    ended = (END, flow_key(1), flow_body(1), IDENT, 0)
    del scene.kernel.entries[flow_key(1)]
    scene.own.apply([ended], scene.kernel.now)
    scene.standby.looked([flow_key(1)], shown, scene.kernel.now)
    assert not scene.own.flows.bodies
    scene.work()
    assert scene.held == keys(1) == set(scene.own.planted)


def test_what_is_deleted_to_be_replaced_is_planted_whatever_is_told_by_then() -> None:
    """Seed 13583 of --warm: it was told as before again, and so nobody wrote it."""
    scene = Scene()
    scene.tell(1)
    scene.work()
    begun = flow_body(1).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
    scene.peer.flows.put([flow_key(1), begun], scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.DELETE
    scene.tell(1)
    plan = next_plan(scene.standby, scene.kernel)
    carry_out(plan, scene.kernel)
    scene.standby.planted(plan, scene.kernel.now)
    del scene.kernel.entries[flow_key(1)]
    scene.standby.deleted(step.keys)
    scene.work()
    assert scene.held == keys(1)


def test_a_copy_that_becomes_own_and_ends_while_it_is_refreshed_is_planted_again() -> (
    None
):
    """Seed 20226 of --warm: the answer came after both, and it counted as planted."""
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.tell(1, seconds=30)
    plan = next_plan(scene.standby, scene.kernel)
    carry_out(plan, scene.kernel)
    begun: Record = (NEW, flow_key(1), flow_body(1), IDENT, _MASK)
    ended = (END, flow_key(1), flow_body(1), IDENT, 0)
    scene.own.apply([begun, ended], scene.kernel.now)
    del scene.kernel.entries[flow_key(1)]
    scene.standby.planted(plan, scene.kernel.now)
    assert not scene.own.planted
    scene.run(4)
    assert scene.held == keys(1) == set(scene.own.planted)


def test_what_was_not_planted_because_its_peer_was_lost_is_when_it_is_back() -> None:
    """Seed 20607 of --warm: lost and back within one beat, which answers held up."""
    scene = Scene()
    scene.tell(1, seconds=1)
    scene.standby.look(scene.kernel.now)
    scene.peer.state = PeerState.LOST
    scene.kernel.now += 60
    assert scene.standby.next_step(scene.kernel.now) is None
    scene.peer.state = PeerState.IN_STEP
    scene.run(2)
    assert scene.held == keys(1)


def test_a_copy_that_is_found_gone_while_its_change_waits_is_created() -> None:
    """It was, by the request that was to change it, and nobody knew of it."""
    own, bed = Own(), Bed()
    refreshed, changed, there = [(flow_key(n), flow_body(n), 0.0) for n in (1, 2, 3)]
    own.plant([there[:2]])
    bed.known, bed.held = [refreshed, there], [flow_body(1), flow_body(3)]
    bed.differing = [(changed, flow_body(2, 30))]
    bed.leave_out(own, WHOLE)
    assert bed.fresh == [refreshed, changed]
    assert (bed.known, bed.held) == ([there], [flow_body(3)])
    assert not bed.differing


def test_a_copy_whose_reply_tuple_a_promotion_gave_away_does_not_become_own() -> None:
    """Seed 8001724: it was deleted for a newer flow, and told as if it lived."""
    scene = Scene()
    scene.tell(1, 2, 3)
    scene.work()
    reply = flow_body(2)[: flow_body(2)[0]]
    back = flow_key(3)[4 : 4 + flow_key(3)[4]]  # it came from where this one goes to
    scene.standby.displaced([reply, back], scene.kernel.now)
    assert set(scene.standby.take([scene.peer])) == keys(1)
    assert scene.standby.refused.counts() == {IN_THE_WAY: 2}


def test_a_copy_that_the_kernel_took_without_a_helper_is_not_own_for_that() -> None:
    """It has the reply tuple that it was written with."""
    scene = Scene()
    key, helper = flow_key(1), nla.nested(CTA_HELP, nla.tlv(1, b"ftp\0"))
    scene.peer.flows.put([key, flow_body(1, 86_400) + helper], scene.kernel.now)
    scene.work()
    assert CTA_HELP in nla.attributes(scene.own.planted[key])
    replies = [
        reply.replace(helper, b"") for reply in scene.kernel.show([key]) if reply
    ]
    scene.standby.looked([key], replies, scene.kernel.now)
    assert not scene.own.flows.bodies
    assert scene.standby.counts.alive == 0
