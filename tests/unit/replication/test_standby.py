"""A warm standby against a kernel in small: what is planted, extended, given up."""

from collections.abc import Iterable

import pytest
from syncd.flows.commit import IN_THE_WAY, TABLE_FULL
from syncd.flows.own import Own
from syncd.flows.planted import SHORT_S
from syncd.flows.record import END
from syncd.replication.former import FORMER_S
from syncd.replication.peer import Peer, PeerState
from syncd.replication.roles import BACKUP, PRIMARY, Roles
from syncd.replication.standby import Standby
from syncd.replication.steps import Task

from tests.unit.replication.talk import flow_body, flow_key
from tests.unit.replication.warm_kernel import Entry, Kernel, records, work

LONG_S = 600
DAY_S = 86_400


class Scene:
    """One node with peers, all live, and its kernel."""

    def __init__(self, *names: str, node: str = "m") -> None:
        self.kernel = Kernel()
        self.kernel.now = 1000.0
        self.own = Own()
        self.roles = Roles()
        self.peers = {name: Peer(name) for name in names or ("a",)}
        for peer in self.peers.values():
            peer.inbox.epoch = 1
            peer.state = PeerState.IN_STEP
        self.standby = Standby(node, self.own, self.peers, self.roles, LONG_S)

    @property
    def peer(self) -> Peer:
        return next(iter(self.peers.values()))

    @property
    def held(self) -> set[bytes]:
        return set(self.kernel.entries)

    def tell(self, *numbers: int, seconds: int = DAY_S, by: str = "") -> None:
        peer = self.peers[by] if by else self.peer
        told = [p for n in numbers for p in (flow_key(n), flow_body(n, seconds))]
        peer.flows.put(told, self.kernel.now)

    def end(self, *numbers: int) -> None:
        self.peer.flows.drop(keys(*numbers))

    def work(self) -> None:
        work(self.standby, self.kernel)

    def run(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time go by; timers that run out end their entries."""
        for _ in range(round(seconds / step_s)):
            self.kernel.now += step_s
            for peer in self.peers.values():
                peer.heard_at = self.kernel.now if peer.live else peer.heard_at
            self.kernel.expire(self.own)
            self.work()


def keys(*numbers: int) -> set[bytes]:
    return {flow_key(number) for number in numbers}


def all_of(numbers: Iterable[int]) -> set[bytes]:
    return keys(*numbers)


def test_what_a_peer_tells_is_planted_and_what_it_ends_is_deleted() -> None:
    scene = Scene()
    scene.tell(1, 2, 3)
    scene.work()
    assert scene.held == keys(1, 2, 3)
    scene.end(2)
    scene.work()
    assert scene.held == keys(1, 3) == set(scene.own.planted)
    assert not scene.own.flows.bodies
    assert not scene.own.flows.marks


def test_a_flow_that_ends_within_a_beat_never_meets_the_kernel() -> None:
    scene = Scene()
    scene.tell(1)
    scene.end(1)
    scene.work()
    assert (scene.kernel.created, scene.kernel.deleted) == (0, 0)


def test_many_flows_are_planted_in_bounded_batches() -> None:
    scene = Scene()
    scene.tell(*range(1, 2001))
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.plan is not None
    assert len(step.plan.records) <= 512
    for batch in iter(step.plan.next_batch, None):
        step.plan.report(batch, *scene.kernel.answer(batch.messages))
    scene.standby.planted(step.plan, scene.kernel.now)
    scene.work()
    assert scene.held == all_of(range(1, 2001))
    assert scene.standby.waiting == 0


@pytest.mark.parametrize(("seconds", "timer_s"), [(30, SHORT_S), (DAY_S, LONG_S)])
def test_a_quiet_flow_is_kept_alive_as_long_as_its_peer_lives(
    seconds: int, timer_s: int
) -> None:
    scene = Scene()
    scene.tell(*range(20), seconds=seconds)
    scene.work()
    least = timer_s * 1.0
    for _ in range(3 * timer_s):
        scene.run(1)
        assert scene.held == all_of(range(20))
        least = min(least, *(scene.kernel.left_s(key) for key in scene.held))
    assert timer_s / 2 - 2 <= least
    assert max(scene.kernel.left_s(key) for key in scene.held) <= timer_s
    assert scene.kernel.created == 20
    assert scene.standby.counts.alive == 0


def test_refreshes_are_spread_over_time() -> None:
    scene = Scene()
    scene.tell(*range(1000))
    scene.work()
    most = before = 0
    for _ in range(LONG_S):
        scene.run(1)
        most = max(most, scene.standby.counts.refreshed - before)
        before = scene.standby.counts.refreshed
    assert before >= 1000
    assert most <= 20


def test_a_lost_peers_flows_end_when_their_estimate_does() -> None:
    scene = Scene()
    scene.tell(1, seconds=30)
    scene.tell(2, seconds=DAY_S)
    scene.work()
    scene.peer.state = PeerState.LOST
    scene.peer.heard_at = scene.kernel.now
    scene.run(2 * LONG_S)
    assert scene.held == keys(2)
    scene.run(DAY_S, 60.0)
    assert not scene.held
    scene.run(LONG_S)
    assert not scene.own.planted


def test_a_copy_that_ended_in_the_kernel_is_planted_again() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    del scene.kernel.entries[flow_key(1)]  # its event was lost
    entry = scene.kernel.entries.pop(flow_key(2))
    scene.own.apply([(END, flow_key(2), entry.body(0), b"", 0)], scene.kernel.now)
    scene.work()
    assert scene.held == keys(2)
    scene.run(LONG_S / 2)
    assert scene.held == keys(1, 2)
    assert scene.standby.counts.replanted == 2


def test_an_event_of_a_copy_makes_it_own_and_its_peer_cannot_end_it() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.kernel.change(scene.own, flow_key(1), 0x2)
    assert set(scene.own.flows.bodies) == keys(1)
    assert not scene.own.planted
    scene.end(1)
    scene.run(LONG_S)
    assert scene.kernel.deleted == 0


def test_packets_without_an_event_make_a_copy_own() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    scene.run(10)
    scene.kernel.packet(flow_key(1), 5 * DAY_S)
    scene.end(1, 2)
    scene.work()
    assert scene.held == keys(1)
    assert set(scene.own.flows.bodies) == keys(1)


def test_a_copy_with_packets_is_found_when_it_would_be_extended() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.run(10)
    scene.kernel.packet(flow_key(1), 5 * DAY_S)
    scene.run(LONG_S / 2)
    assert set(scene.own.flows.bodies) == keys(1)
    assert scene.kernel.left_s(flow_key(1)) > 4 * DAY_S


def test_no_dump_makes_a_copy_own() -> None:
    scene = Scene()
    scene.tell(1)
    scene.kernel.entries[flow_key(2)] = Entry(flow_body(2)[:52], 0xE, 2000.0)
    scene.work()
    scene.own.begin_dump()
    scene.own.fill(records(scene.kernel))
    scene.own.end_dump(scene.kernel.now)
    assert set(scene.own.flows.bodies) == keys(2)
    assert set(scene.own.planted) == keys(1)


def test_a_dump_does_not_bring_back_what_was_deleted_meanwhile() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.own.begin_dump()
    shown = records(scene.kernel)
    scene.end(1)
    scene.work()
    scene.own.fill(shown)
    scene.own.end_dump(scene.kernel.now)
    assert not scene.own.flows.bodies


def test_an_own_flow_is_neither_made_nor_deleted_but_brought_forward() -> None:
    scene = Scene()
    scene.kernel.entries[flow_key(1)] = Entry(flow_body(1)[:52], 0x8, 2000.0)
    scene.own.apply(records(scene.kernel), scene.kernel.now)
    scene.work()
    scene.run(FORMER_S + 1)
    scene.tell(1)  # with SEEN_REPLY and ASSURED
    scene.work()
    assert scene.kernel.entries[flow_key(1)].status == 0xE
    assert scene.kernel.entries[flow_key(1)].ends_at == 2000.0
    assert list(scene.own.lookups) == [flow_key(1)]
    scene.own.apply(records(scene.kernel), scene.kernel.now)
    changed = scene.kernel.changed
    scene.tell(1, seconds=77)
    scene.work()
    assert scene.kernel.changed == changed
    scene.end(1)
    scene.work()
    assert scene.held == keys(1)


def restarted(claim: int, role: str = BACKUP, frames: int = 0, name: str = "z") -> bool:
    """A node is started on a kernel with an entry that its peer tells: a copy again?"""
    scene = Scene(name)
    scene.peer.claim, scene.roles.role = claim, role
    scene.peer.inbox.highest = frames
    scene.kernel.entries[flow_key(1)] = Entry(flow_body(1)[:52], 0xE, 1100.0)
    scene.own.begin_dump()
    scene.own.fill(records(scene.kernel))
    scene.own.end_dump(scene.kernel.now)
    scene.tell(1)
    scene.work()
    assert scene.held == keys(1)
    assert scene.kernel.deleted == 0
    planted = set(scene.own.planted) == keys(1)
    assert planted != bool(scene.own.flows.bodies)
    return planted


def test_copies_of_an_earlier_life_are_copies_again() -> None:
    assert restarted(claim=1)
    assert restarted(claim=0, frames=1000)


def test_a_primary_and_two_nodes_that_restart_together_do_not_give_up_both() -> None:
    assert not restarted(claim=1, role=PRIMARY)
    assert restarted(claim=0, name="a") != restarted(claim=0, name="z")


def test_who_takes_over_makes_copies_of_what_was_own_before() -> None:
    scene = Scene()
    scene.kernel.entries[flow_key(1)] = Entry(flow_body(1)[:52], 0xE, 9000.0)
    scene.own.apply(records(scene.kernel), scene.kernel.now)
    scene.work()
    scene.run(FORMER_S + 1)
    scene.peer.claim = 1
    scene.work()
    scene.tell(1)
    scene.work()
    assert set(scene.own.planted) == keys(1)
    assert not scene.own.flows.bodies
    scene.end(1)
    scene.work()
    assert not scene.held


def test_each_take_over_makes_copies_of_what_became_own_since() -> None:
    scene = Scene()
    scene.work()
    for claim in (1, 3):
        scene.tell(1)
        scene.work()
        scene.own.flows.adopt([(flow_key(1), flow_body(1), 0.0)])
        scene.standby.take([scene.peer])
        scene.standby.adopting = {}
        scene.roles.claim = claim
        scene.work()
        scene.peer.claim = claim + 1
        scene.tell(1, seconds=DAY_S + claim)
        scene.work()
        assert set(scene.own.planted) == keys(1)
        assert not scene.own.flows.bodies


def test_a_new_flow_of_the_same_tuple_replaces_the_copy() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    begun = flow_body(1, 30).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
    scene.peer.flows.put([flow_key(1), begun], scene.kernel.now)
    scene.work()
    assert scene.kernel.entries[flow_key(1)].status == 0x8
    assert (scene.kernel.created, scene.kernel.deleted) == (2, 1)


def test_a_flow_that_ends_and_begins_anew_while_it_is_asked_for_is_replaced() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.end(1)
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.LOOK
    begun = flow_body(1, 30).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
    scene.peer.flows.put([flow_key(1), begun], scene.kernel.now)
    scene.standby.looked(step.keys, scene.kernel.show(step.keys), scene.kernel.now)
    scene.work()
    assert scene.kernel.entries[flow_key(1)].status == 0x8


def test_a_full_table_is_counted_and_filled_when_there_is_room() -> None:
    scene = Scene()
    scene.standby.room = 5
    scene.tell(*range(20))
    scene.work()
    assert len(scene.held) == 5
    assert scene.standby.refused.counts() == {TABLE_FULL: 15}
    scene.standby.room = 100
    scene.work()
    assert len(scene.held) == 20
    assert not scene.standby.refused.counts()


def test_a_kernel_that_is_full_all_the_same_is_asked_again() -> None:
    scene = Scene()
    scene.kernel.room = 5
    scene.tell(*range(20))
    scene.work()
    assert scene.standby.refused.counts() == {TABLE_FULL: 15}
    scene.kernel.room = 100
    scene.run(1)
    assert scene.held == all_of(range(20))


def test_an_entry_that_nobody_knows_is_asked_for_and_never_written_over() -> None:
    """A flow that began here just now: its event was not read yet."""
    scene = Scene()
    scene.work()
    key = flow_key(1)
    scene.kernel.entries[key] = Entry(flow_body(1)[:52], 0x8, 1120.0)
    scene.tell(1)
    scene.work()
    assert (scene.kernel.changed, scene.kernel.deleted) == (0, 0)
    assert set(scene.own.lookups) == {key}
    assert not scene.own.planted
    assert scene.standby.refused.counts() == {IN_THE_WAY: 1}
    scene.own.apply(records(scene.kernel), scene.kernel.now)
    scene.run(2)
    assert scene.kernel.entries[key].status == 0xE  # brought forward, as an own one is
    assert not scene.standby.refused.counts()


def test_a_copy_that_a_dump_has_missed_is_a_copy_all_the_same() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.own.begin_dump()
    scene.own.end_dump(scene.kernel.now)
    scene.run(2)
    assert set(scene.own.planted) == keys(1)
    assert (scene.kernel.created, scene.kernel.deleted) == (1, 0)
    assert not scene.own.lookups


def test_what_an_earlier_life_left_of_another_flow_is_made_anew() -> None:
    """The same tuple was used again meanwhile: an entry never loses ASSURED."""
    scene = Scene("a")
    scene.peer.claim = 1
    left = Entry(flow_body(1)[:52], 0xE, 1100.0)
    scene.kernel.entries[flow_key(1)] = left
    scene.own.begin_dump()
    scene.own.fill(records(scene.kernel))
    scene.own.end_dump(scene.kernel.now)
    begun = flow_body(1, 30).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
    scene.peer.flows.put([flow_key(1), begun], scene.kernel.now)
    scene.work()
    assert scene.kernel.entries[flow_key(1)].status == 0x8
    assert set(scene.own.planted) == keys(1)
    assert not scene.own.flows.bodies


def test_what_is_refused_is_tried_again_ever_less_and_forgotten_with_its_flow() -> None:
    scene = Scene()
    scene.work()
    scene.standby.refused.add(flow_key(1), IN_THE_WAY, scene.kernel.now)
    scene.tell(1)
    scene.run(2)
    assert scene.held == keys(1)
    assert not scene.standby.refused.counts()


def test_a_flushed_peer_table_leaves_the_copies_to_their_timers() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    scene.peer.flows.clear()
    scene.run(10)
    assert scene.held == keys(1, 2)
    scene.tell(2)
    scene.run(2 * LONG_S)
    assert scene.held == keys(2) == set(scene.own.planted)


def test_of_two_peers_the_higher_claim_and_then_the_newer_word_counts() -> None:
    scene = Scene("a", "b")
    scene.tell(1, by="a", seconds=DAY_S)
    scene.tell(1, by="b", seconds=DAY_S + 1)
    scene.work()
    scene.peers["a"].flows.drop([flow_key(1)])
    scene.work()
    assert scene.held == keys(1)
    scene.peers["b"].flows.drop([flow_key(1)])
    scene.work()
    assert not scene.held


def test_a_promotion_takes_all_copies_and_ends_of_the_peer_do_not_touch_them() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    taken = scene.standby.take([scene.peer])
    assert set(taken) == keys(1, 2)
    assert not scene.own.planted
    scene.end(1)
    scene.run(5)
    assert scene.held == keys(1, 2)


def test_a_promotion_leaves_the_copies_of_other_peers() -> None:
    scene = Scene("a", "b")
    scene.tell(1, by="a")
    scene.tell(2, by="b")
    scene.work()
    assert set(scene.standby.take([scene.peers["a"]])) == keys(1)
    assert set(scene.own.planted) == keys(2)


def test_an_audit_finds_and_repairs_what_is_otherwise() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    scene.kernel.entries[flow_key(1)].status = 0x8
    del scene.kernel.entries[flow_key(2)]
    scene.standby.audit(tuple(scene.own.planted))
    scene.work()
    counts = scene.standby.counts
    assert (counts.repaired, counts.replanted) == (1, 1)
    assert scene.kernel.entries[flow_key(1)].status == 0xE
    assert scene.held == keys(1, 2)


def test_a_refresh_that_could_not_be_carried_out_is_made_up_for() -> None:
    scene = Scene()
    scene.tell(*range(20), seconds=30)
    scene.work()
    failures = 0
    for second in range(3 * SHORT_S):
        scene.kernel.now += 1
        scene.kernel.expire(scene.own)
        failures += not work(scene.standby, scene.kernel, answers=second % 2 == 0)
        assert scene.held == all_of(range(20))
    assert failures
    assert scene.kernel.created == 20
    assert scene.standby.counts.replanted == 0
