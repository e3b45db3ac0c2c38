"""Sixteen nodes, each with traffic of its own; slow ones, modes, tables at a limit."""

import random

import pytest
from syncd.flows.selection import select
from syncd.flows.table import OwnTable
from syncd.replication.settings import BEST_EFFORT, REFRESH, Settings

from tests.sim.network import CALM, Weather
from tests.sim.story import Story
from tests.sim.workload import Pace

SIXTEEN = tuple(f"fw{number}" for number in range(1, 17))
LIGHT = Pace(initial=4, births=2.0, step_s=0.2)


def test_sixteen_active_nodes_hold_each_others_flows_apart() -> None:
    weather = Weather(loss=0.1, delay_s=0.001, jitter_s=0.001)
    story = Story(*SIXTEEN, pace=LIGHT, weather=weather)
    story.wait(1.0)
    story.nodes["fw3"].stop()
    story.wait(0.5)
    story.nodes["fw3"].start()
    story.wait(0.5)
    story.stop_load()
    story.network.heal()
    story.settle(5.0)
    for at, node in story.nodes.items():
        assert len(node.running.peers) == 15
        for of in SIXTEEN:
            if of != at:
                kernel = story.nodes[of].kernel
                assert story.peer(at, of).flows.bodies.keys() == kernel.flows.keys()


def test_a_node_behind_a_slow_link_delays_the_others_for_a_bounded_time() -> None:
    settings = Settings(window_frames=16, ack_frames=4)
    story = Story(*SIXTEEN[:5], settings=settings)
    story.network.set_path("fw5", "fw1", Weather(delay_s=1.5))  # its words come late
    flows = story.open("fw1", 200)
    for mark in range(1, 120):
        story.mark("fw1", flows, mark)
        story.wait(0.05)
    story.wait(settings.slow_peer_s + 0.2)  # it may just have got another chance
    slow = story.peer("fw1", "fw5")
    own = story.nodes["fw1"].running.own.flows.bodies
    for name in SIXTEEN[1:4]:
        assert story.peer(name, "fw1").flows.bodies == own
        assert story.peer("fw1", name).suspensions == 0
    assert slow.suspensions > 0
    story.network.heal()
    story.settle(10.0)


@pytest.mark.parametrize("mode", [REFRESH, BEST_EFFORT])
def test_other_modes_are_equal_once_nothing_was_lost_for_a_while(mode: str) -> None:
    settings = Settings(mode=mode, refresh_interval_s=2.0, expire_s=4.0)
    story = Story("fw1", "fw2", "fw3", pace=LIGHT, settings=settings)
    story.network.weather = Weather(loss=0.1, delay_s=0.001)
    story.wait(3.0)
    story.stop_load()
    story.network.weather = CALM
    if mode == BEST_EFFORT:
        for node in story.nodes.values():
            node.command("pull")
    story.settle(12.0)


def test_of_one_flow_in_two_kernels_every_node_chooses_the_same_newest() -> None:
    story = Story("fw1", "fw2", "fw3", "fw4")
    (flow,) = story.open("fw1")
    story.nodes["fw2"].kernel.create(flow.facts, 1000)
    story.wait(1.5)
    rng = random.Random(4)
    for mark in range(1, 6):
        last = rng.choice(("fw1", "fw2"))
        for entry in list(story.nodes[last].kernel.flows.values()):
            story.nodes[last].kernel.change(
                entry, entry.facts._replace(mark=mark), 1000
            )
        story.wait(1.5)
        story.nodes["fw3"].command("pull")
        story.nodes[last].command("push")
        story.wait(1.5)
        for name in ("fw3", "fw4"):
            peers = [story.peer(name, of) for of in ("fw1", "fw2")]
            chosen = list(
                select(
                    [(peer.flows, False) for peer in peers],
                    OwnTable(),
                    story.clock.now,
                    ranks=[peer.claim for peer in peers],
                )
            )
            bodies = {key: body for key, body, _ in chosen}
            newest = story.nodes[last].running.own.flows.bodies
            assert bodies[flow.key] == newest[flow.key]
            assert len(bodies) == len(chosen)
