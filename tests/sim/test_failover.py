"""Traffic that moves from one firewall to the other, and no flow is lost by it."""

import pytest
from syncd.replication.roles import OUTLIVED_S

from tests.sim.kernel import Entry
from tests.sim.network import CALM, Weather
from tests.sim.story import Story

LOSSY = Weather(loss=0.1, duplication=0.05, delay_s=0.001, jitter_s=0.002)


def keys(entries: list[Entry]) -> set[bytes]:
    return {entry.key for entry in entries}


@pytest.mark.parametrize("weather", [CALM, LOSSY], ids=["calm", "lossy"])
@pytest.mark.parametrize("number", [*range(10), 17])
def test_masqueraded_flows_survive_a_switch_over_forth_and_back(
    number: int, weather: Weather
) -> None:
    story = Story("fw1", "fw2", seed=number, weather=weather)
    story.promote("fw1")
    story.wait(1.0)
    alive = keys(story.open("fw1", 60))
    old, new = "fw1", "fw2"
    for _ in range(5):
        story.wait(1.0)
        story.switch_over(old, new)
        assert story.nodes[new].kernel.flows.keys() == alive
        story.wait(1.5)
        ended = list(story.nodes[new].kernel.flows.values())[:5]
        story.close(new, ended)
        alive = alive - keys(ended) | keys(story.open(new, 5))
        old, new = new, old
    story.network.heal()
    story.settle(3.0)
    assert story.nodes[old].kernel.flows.keys() == alive
    assert not story.nodes[new].kernel.flows
    assert not story.nodes[new].running.own.flows.bodies


def test_the_old_primary_forgets_its_flows_only_when_another_has_taken_over() -> None:
    story = Story("fw1", "fw2", "fw3")
    story.promote("fw1")
    flows = story.open("fw1", 20)
    story.settle(1.0)
    story.nodes["fw1"].command("demote")
    story.close("fw1", flows, early=True)
    story.wait(5.0)
    assert story.peer("fw2", "fw1").flows.bodies.keys() == keys(flows)
    assert story.peer("fw3", "fw1").flows.bodies.keys() == keys(flows)
    story.promote("fw2")
    story.settle(2.0)
    assert not story.peer("fw3", "fw1").flows.bodies
    assert story.peer("fw3", "fw2").flows.bodies.keys() == keys(flows)


def test_a_dead_primary_is_replaced_and_gets_everything_back_later() -> None:
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 40)
    story.settle(1.0)
    story.nodes["fw1"].stop()
    story.close("fw1", flows)  # its kernel died with it
    story.wait(5.0)
    story.promote("fw2")
    assert story.nodes["fw2"].kernel.flows.keys() == keys(flows)
    story.wait(1.0)
    story.nodes["fw1"].start()
    story.settle(3.0)
    story.switch_over("fw2", "fw1")
    assert story.nodes["fw1"].kernel.flows.keys() == keys(flows)
    story.settle(3.0)


def test_a_promotion_after_a_demotion_that_nobody_answered_restores_the_flows() -> None:
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 20)
    story.settle(1.0)
    story.nodes["fw1"].command("demote")
    story.close("fw1", flows, early=True)
    story.wait(1.0)
    story.promote("fw1")
    assert story.nodes["fw1"].kernel.flows.keys() == keys(flows)
    story.settle(2.0)


def test_a_restarted_primary_does_not_lose_its_claim() -> None:
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 20)
    story.settle(1.0)
    story.nodes["fw1"].stop()
    story.wait(0.2)
    story.nodes["fw1"].start()
    story.settle(2.0)
    story.switch_over("fw1", "fw2")
    assert story.nodes["fw2"].kernel.flows.keys() == keys(flows)
    story.settle(2.0)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("later_s", [0.5, OUTLIVED_S + 1.0])
def test_what_a_primary_has_after_another_gave_the_role_back_is_taken_over_too(
    rounds: int, later_s: float
) -> None:
    """For a moment both were primary. After a while it is clear who has remained it."""
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 20)
    story.settle(1.0)
    for _ in range(rounds):
        story.promote("fw2")
        story.wait(0.3)
        story.nodes["fw2"].command("demote")
        story.wait(0.3)
    story.wait(later_s)
    story.close("fw1", flows[:5])
    later = story.open("fw1", 20)
    story.settle(1.0)
    story.nodes["fw1"].stop()
    story.close("fw1", flows[5:] + later)  # its kernel died with it
    story.wait(5.0)
    story.promote("fw2")
    left = keys(flows[:5]) if later_s < OUTLIVED_S else set()
    assert story.nodes["fw2"].kernel.flows.keys() - left == keys(flows[5:] + later)


@pytest.mark.parametrize("later_s", [5.0, OUTLIVED_S + 5.0])
def test_who_took_over_and_gives_the_role_back_is_believed(later_s: float) -> None:
    """Nobody had demoted the first one, and it is promoted once more."""
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 20)
    story.settle(1.0)
    story.promote("fw2")
    story.close("fw1", flows, early=True)
    later = story.open("fw2", 20)
    story.settle(1.0)
    story.nodes["fw2"].command("demote")
    story.wait(later_s)
    if later_s < OUTLIVED_S:  # the address leaves
        story.close("fw2", list(story.nodes["fw2"].kernel.flows.values()), early=True)
        story.wait(1.0)
    story.promote("fw1")
    assert story.nodes["fw1"].kernel.flows.keys() == keys(flows + later)
