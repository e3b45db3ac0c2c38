"""Known stories, told step by step. Each is a day that will come."""

import random

import pytest

from tests.sim.ctnetlink import UDP
from tests.sim.network import Weather
from tests.sim.node import Habits
from tests.sim.opening import Opening, announce
from tests.sim.story import Story
from tests.sim.workload import Pace

LOAD = Pace(initial=40, births=40.0, step_s=0.05)
LOSSY = Weather(loss=0.05, duplication=0.05, delay_s=0.001, jitter_s=0.001)


def test_a_flow_reaches_the_peer_within_two_beats() -> None:
    story = Story("fw1", "fw2")
    (flow,) = story.open("fw1")
    story.wait(0.02)
    assert flow.key in story.peer("fw2", "fw1").flows.bodies
    story.close("fw1", [flow])
    story.wait(0.02)
    assert flow.key not in story.peer("fw2", "fw1").flows.bodies


def test_the_standby_is_killed_under_load_and_comes_back() -> None:
    story = Story("fw1", "fw2", pace=LOAD, weather=LOSSY)
    story.nodes["fw2"].stop()
    story.wait(0.7)
    story.nodes["fw2"].start()
    story.wait(1.0)
    story.stop_load()
    assert story.settle(2.0) <= 2.0
    story.rest()


def test_the_last_frame_is_lost_and_nothing_follows() -> None:
    story = Story("fw1", "fw2")
    story.cut("fw1", "fw2")
    flows = story.open("fw1", 3)
    story.wait(0.02)
    story.network.heal()
    assert story.settle(1.0) <= 1.0
    assert story.peer("fw2", "fw1").flows.bodies.keys() >= {flow.key for flow in flows}


def test_a_long_silence_keeps_the_copy_and_its_end_sweeps_what_has_ended() -> None:
    story = Story("fw1", "fw2")
    flows = story.open("fw1", 50)
    story.settle(1.0)
    story.isolate("fw2")
    story.close("fw1", flows[:20])
    added = story.open("fw1", 5)
    story.wait(10.0)
    peer = story.peer("fw2", "fw1")
    assert peer.state.value == "lost"
    assert peer.flows.bodies.keys() == {flow.key for flow in flows}
    story.network.heal()
    story.settle(2.0)
    assert peer.flows.bodies.keys() == {flow.key for flow in flows[20:] + added}


def test_a_frame_that_comes_late_changes_nothing() -> None:
    story = Story("fw1", "fw2")
    (flow,) = story.open("fw1")
    story.wait(0.05)
    story.network.weather = Weather(delay_s=0.3)
    story.mark("fw1", [flow], 1)
    story.wait(0.02)
    story.network.heal()
    story.mark("fw1", [flow], 2)
    story.wait(0.02)
    peer = story.peer("fw2", "fw1")
    newest, late = peer.flows.bodies[flow.key], peer.inbox.late_frames
    story.wait(0.5)
    assert peer.inbox.late_frames > late
    assert peer.flows.bodies[flow.key] == newest
    story.settle(1.0)


def test_a_partition_heals_and_each_half_learns_what_the_other_did() -> None:
    story = Story("fw1", "fw2", "fw3", "fw4")
    for left in ("fw1", "fw2"):
        for right in ("fw3", "fw4"):
            story.cut(left, right)
            story.cut(right, left)
    story.open("fw1", 10)
    story.open("fw3", 10)
    story.wait(6.0)
    assert story.peer("fw1", "fw2").state.value == "in-step"
    assert story.peer("fw1", "fw3").state.value == "lost"
    story.network.heal()
    assert story.settle(2.0) <= 2.0
    story.rest()


def test_three_nodes_hold_the_flows_of_the_two_others() -> None:
    story = Story("fw1", "fw2", "fw3", pace=LOAD, weather=LOSSY)
    story.wait(1.0)
    story.stop_load()
    story.settle(2.0)
    for at in story.nodes:
        for of in story.nodes:
            if at != of:
                kernel = story.nodes[of].kernel
                assert story.peer(at, of).flows.bodies.keys() == kernel.flows.keys()


def test_the_sender_restarts_and_its_kernel_has_changed_meanwhile() -> None:
    story = Story("fw1", "fw2")
    flows = story.open("fw1", 30)
    story.settle(1.0)
    story.nodes["fw1"].stop()
    story.close("fw1", flows[:10])
    story.mark("fw1", flows[10:20], 7)
    story.wait(1.0)
    # Until it has read its kernel, nobody may forget what it had.
    assert len(story.peer("fw2", "fw1").flows) == 30
    story.nodes["fw1"].start()
    story.settle(2.0)
    assert len(story.peer("fw2", "fw1").flows) == 20


def test_a_late_hello_of_a_dead_life_does_not_shut_the_living_one_out() -> None:
    story = Story("fw1", "fw2")
    story.network.weather = Weather(delay_s=2.0)
    story.wait(0.6)
    story.network.heal()  # the HELLOs of the last half second are under way
    story.nodes["fw1"].stop()
    story.nodes["fw2"].stop()
    story.wait(0.1)
    story.nodes["fw1"].start()
    story.nodes["fw2"].start()
    story.open("fw1", 5)
    story.wait(3.0)
    story.settle(2.0)
    story.rest()


def test_lost_events_are_made_good_by_a_dump() -> None:
    story = Story("fw1", "fw2", habits=Habits(queue_limit=8))
    flows = story.open("fw1", 60)
    story.wait(0.02)
    story.nodes["fw1"].pause(0.2)
    story.close("fw1", flows[:30])
    story.mark("fw1", flows[30:40], 5)
    story.open("fw1", 20)
    story.settle(3.0)
    assert story.nodes["fw1"].losses > 0


def test_one_loss_is_mended_once_however_many_nodes_report_it() -> None:
    story = Story("fw1", "fw2", "fw3", "fw4", "fw5")
    for other in ("fw2", "fw3", "fw4", "fw5"):
        story.cut("fw1", other)
    story.open("fw1", 5)
    story.wait(0.02)
    story.network.heal()
    before = story.network.datagrams
    story.settle(2.0)
    story.wait(1.0)
    assert story.network.datagrams - before < 60


@pytest.mark.parametrize("loss", [0.3, 0.6])
def test_a_bad_link_delays_but_does_not_confuse(loss: float) -> None:
    weather = Weather(loss=loss, duplication=0.3, delay_s=0.01, jitter_s=0.02)
    story = Story("fw1", "fw2", "fw3", pace=LOAD, weather=weather)
    story.wait(2.0)
    story.stop_load()
    story.network.heal()
    story.settle(3.0)


def test_an_expectation_is_kept_once_although_its_zone_is_known_later() -> None:
    habits = Habits(drain_limit=1, beat_s=0.001, chunk_gap_s=0.05)
    story = Story("fw1", "fw2", habits=habits)
    kernel = story.nodes["fw1"].kernel
    story.nodes["fw1"].command("resync kernel")
    story.wait(0.08)
    draws = Opening(random.Random(1), ports=9, zones=0)
    master = draws.draw(UDP, port=69, helper="tftp")._replace(zone=2)
    entry = kernel.create(master, 30, announce(master, 4000, "tftp"))
    story.wait(1.0)
    story.settle(1.0)
    assert len(story.peer("fw2", "fw1").expectations) == 1
    kernel.end(entry)
    story.settle(1.0)
    assert not story.peer("fw2", "fw1").expectations.bodies


def test_a_mark_taken_away_during_a_dump_stays_away() -> None:
    habits = Habits(beat_s=0.001, chunk=3, chunk_gap_s=0.05)
    story = Story("fw1", "fw2", habits=habits)
    flows = story.open("fw1", 20)
    story.mark("fw1", flows, 7)
    story.settle(1.0)
    story.nodes["fw1"].command("resync kernel")
    for flow in flows:  # between the writing of a part and its reading
        story.wait(0.02)
        story.mark("fw1", [flow], 0)
    story.settle(2.0)


def test_what_ended_before_a_dump_and_was_lost_is_not_revived_by_older_events() -> None:
    story = Story(
        "fw1", "fw2", habits=Habits(queue_limit=6, drain_limit=1, beat_s=0.02)
    )
    flows = story.open("fw1", 6)
    story.mark("fw1", flows, 3)
    story.close("fw1", flows)  # lost, the queue is full of older events
    story.settle(3.0)
    assert not story.nodes["fw1"].running.own.flows.bodies


@pytest.mark.parametrize("number", range(6))
def test_a_node_that_was_stopped_is_not_ready_before_it_was_told(number: int) -> None:
    story = Story("fw1", "fw2", seed=number, habits=Habits(receive_bytes=2048))
    story.open("fw1", 20)
    story.settle(1.0)
    node = story.nodes["fw2"]
    node.pause(9.0)
    story.wait(0.1)
    for _ in range(8):
        story.open("fw1", 10)
        story.wait(1.0)
    while story.peer("fw2", "fw1").flows.bodies != (
        story.nodes["fw1"].running.own.flows.bodies
    ):
        story.wait(0.01)
        assert node.paused or not node.running.ready
    story.settle(3.0)
    assert node.running.ready


@pytest.mark.parametrize("seconds", [4.0, 4000.0])
def test_a_clock_that_jumps_makes_no_copy_wrong(seconds: float) -> None:
    story = Story("fw1", "fw2", pace=LOAD)
    story.nodes["fw2"].jump(seconds)
    story.wait(0.2)
    story.nodes["fw1"].jump(seconds)
    story.wait(1.0)
    story.stop_load()
    story.settle(4.0)
    story.rest()


def test_a_path_that_flaps_one_way_heals_with_its_last_flap() -> None:
    story = Story("fw1", "fw2", pace=LOAD)
    for _ in range(12):
        story.cut("fw1", "fw2")
        story.wait(0.4)
        story.network.heal()
        story.wait(0.1)
    story.stop_load()
    assert story.settle(3.0) <= 3.0


def test_a_node_without_any_link_does_not_spin_although_it_has_much_to_tell() -> None:
    story = Story("fw1", "fw2", pace=LOAD)
    story.nodes["fw1"].carrier(0, up=False)
    before = story.nodes["fw1"].wakes.total
    story.wait(1.0)
    assert story.nodes["fw1"].wakes.total - before < 500
    story.nodes["fw1"].carrier(0, up=True)
    story.stop_load()
    story.settle(3.0)
