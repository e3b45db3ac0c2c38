"""Copies that changed in silence: found, located, repaired; not ready meanwhile."""

import random
from dataclasses import replace

import pytest

from tests.sim.cluster import Cluster
from tests.sim.corruption import corrupt
from tests.sim.faults import Fault
from tests.sim.network import CALM, Weather
from tests.sim.plan import draw
from tests.sim.story import Story
from tests.sim.workload import Pace

LOADED = Pace(initial=50, births=30.0, step_s=0.05)
BEAT_S = 1.0  # between two comparisons
REPAIR_S = 0.6


def copies_equal(story: Story) -> bool:
    own = story.nodes["fw1"].running.own.flows.bodies
    return story.peer("fw2", "fw1").flows.bodies == own


@pytest.mark.parametrize("what", ["flip", "drop", "add"])
def test_a_silent_corruption_is_found_at_the_next_beat_and_nothing_else_is_told(
    what: str,
) -> None:
    story = Story("fw1", "fw2", "fw3")
    story.open("fw1", 300)
    story.settle(3.0)
    story.wait(1.0)
    sender = story.nodes["fw1"].running
    peer, other = story.peer("fw2", "fw1"), story.peer("fw3", "fw1")
    passes, told = sender.agreement._pass_count, _told(story)
    corrupt(story.nodes["fw2"], what, "fw1")
    assert not copies_equal(story)
    story.wait(BEAT_S + REPAIR_S)
    assert copies_equal(story)
    assert peer.verified
    assert (peer.repaired, peer.incidents) == (1, 1)
    assert (other.repaired, other.incidents) == (0, 0)
    assert sender.agreement._pass_count == passes
    assert _told(story) - told == (what != "add")


def _told(story: Story) -> int:
    """How many records the sender has told so far."""
    return story.nodes["fw1"].running.outbox.told_records


@pytest.mark.parametrize("what", ["flip", "drop", "add"])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_corruption_under_load_is_repaired(what: str, loss: float) -> None:
    weather = replace(CALM, loss=loss) if loss else CALM
    story = Story("fw1", "fw2", pace=LOADED, weather=weather)
    story.open("fw1", 200)  # most of the table lives longer than the beat
    story.wait(1.0)
    for _ in range(5):
        corrupt(story.nodes["fw2"], what, "fw1")
        story.wait(0.3)
    story.wait(BEAT_S + REPAIR_S)
    story.stop_load()
    story.network.weather = CALM
    story.settle(3.0)
    story.wait(BEAT_S + REPAIR_S)
    assert story.peer("fw2", "fw1").verified
    assert story.peer("fw2", "fw1").incidents >= 1


def test_a_node_that_found_a_difference_is_not_ready_until_it_is_equal() -> None:
    story = Story("fw1", "fw2", weather=replace(CALM, delay_s=0.02))
    story.open("fw1", 100)
    story.settle(3.0)
    story.wait(1.0)
    holder = story.nodes["fw2"].running
    assert holder.ready
    corrupt(story.nodes["fw2"], "flip", "fw1")
    unready = False
    for _ in range(400):
        story.wait(0.005)
        if unready and holder.ready:
            break
        unready = unready or not holder.ready
    assert unready
    assert copies_equal(story)
    assert holder.lacking == ""


@pytest.mark.parametrize("number", range(9000, 9012))
def test_a_run_with_faults_and_corruptions_ends_equal(number: int) -> None:
    plan = draw(number)
    rng = random.Random(number)
    corruptions = tuple(
        Fault(
            rng.uniform(0.3, plan.load_s),
            rng.choice(("flip", "drop", "add")),
            tuple(rng.sample(plan.nodes, 2)),
        )
        for _ in range(4)
    )
    weather = replace(plan.weather, loss=min(plan.weather.loss, 0.2))
    Cluster(
        replace(plan, faults=plan.faults + corruptions, weather=weather, settle_s=8.0)
    ).run()


def test_a_lossy_network_causes_no_difference() -> None:
    story = Story("fw1", "fw2", "fw3", pace=LOADED, weather=Weather(loss=0.2))
    story.wait(10.0)
    for node in story.nodes.values():
        assert node.running.comparison.differences == 0
