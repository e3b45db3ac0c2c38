"""What seeds have found, told by hand: it stays found when the draw changes.

Each story names the seed that found it first, and fails without the change that was
made then.
"""

import random

import pytest
from syncd.replication.settings import REFRESH, Settings

from tests.sim.cluster import Cluster
from tests.sim.ctnetlink import UDP
from tests.sim.network import Weather
from tests.sim.node import Habits
from tests.sim.opening import Opening, announce
from tests.sim.plan import Plan
from tests.sim.story import QUIET, Story
from tests.sim.workload import Pace

CROWD = tuple(f"fw{number}" for number in range(1, 9))
SIXTEEN = tuple(f"fw{number}" for number in range(1, 17))


def started(
    weather: Weather, *names: str, old: tuple[str, ...] = (), wires: int = 1
) -> Cluster:
    """A cluster without traffic whose nodes start all at once, for some seconds."""
    plan = Plan(2, names, paces=(QUIET,), weather=weather, old=old, wires=wires)
    cluster = Cluster(plan)
    cluster.network.weather = weather
    cluster.start()
    cluster.clock.run_until(cluster.clock.now + 3.0)
    return cluster


def test_a_node_among_seven_old_ones_is_not_drawn_into_their_storm() -> None:
    """Seed 1010624: nodes of 1.0 that start at once answer each HELLO at once."""
    weather = Weather(duplication=0.3, delay_s=0.05, loss=0.05, jitter_s=0.0002)
    cluster = started(weather, *CROWD, old=CROWD[:7])
    sent = cluster.network.sent
    assert min(sent[name] for name in CROWD[:7]) > 500
    assert sent["fw8"] < 300
    cluster.network.heal()
    cluster.settle(5.0)


def test_hellos_of_many_parts_keep_their_distance() -> None:
    """Seed 103060: sixteen nodes, and a link whose frames hold a few peers each."""
    weather = Weather(loss=0.2, duplication=0.05, delay_s=0.005, jitter_s=0.02)
    cluster = started(weather, *SIXTEEN, wires=3)
    assert cluster.network.sent.total() < 10000  # they would be 20000 and more


def test_a_slow_peer_lets_mode_refresh_send_no_more_than_the_window() -> None:
    """Seed 200427: the walk of mode refresh filled frames that nobody acknowledged."""
    settings = Settings(
        mode=REFRESH, refresh_interval_s=1.0, expire_s=2.0, window_frames=4
    )
    story = Story("fw1", "fw2", "fw3", settings=settings)
    story.open("fw1", 400)
    story.wait(0.5)
    story.nodes["fw3"].stop()
    story.network.set_path("fw3", "fw1", Weather(delay_s=0.4))
    story.network.set_path("fw2", "fw1", Weather(delay_s=0.4))
    story.nodes["fw3"].start()  # a resync: until it ends frames are acknowledged
    outbox = story.nodes["fw1"].running.outbox
    most = 0
    for _ in range(800):
        story.wait(0.01)
        most = max(most, len(outbox.unacked))
    assert 0 < most <= settings.window_frames + 1


def test_an_expectation_in_another_zone_keeps_no_ended_one_alive() -> None:
    """Seed 1019662: its end is lost, the other one ends during the dump after that."""
    habits = Habits(beat_s=0.02, queue_limit=2, chunk_gap_s=0.05)
    story = Story("fw1", "fw2", habits=habits)
    kernel = story.nodes["fw1"].kernel
    draws = Opening(random.Random(3), ports=2, zones=0)
    facts = draws.draw(UDP, port=69, helper="tftp")
    expected = announce(facts, 40000, "tftp")
    masters = []
    for zone in (0, 2):
        masters.append(kernel.create(facts._replace(zone=zone), 300))
        story.wait(0.1)
    kernel.expect(expected, masters[0], 300)
    story.wait(0.5)
    kernel.refresh(masters[0], 300)
    for master in masters:  # these two fill the queue, what follows is lost
        kernel.change(master, master.facts._replace(mark=7), 300)
    (key,) = kernel.expectations
    kernel.end_expectation(key)
    kernel.expect(expected, masters[1], 300)
    story.wait(0.1)
    (key,) = kernel.expectations
    kernel.end_expectation(key)  # while the dump is going on
    story.settle(3.0)
    assert not story.peer("fw2", "fw1").expectations.bodies
    assert story.nodes["fw1"].losses == 2


@pytest.mark.parametrize("tenths", range(0, 20, 3))
def test_what_a_dead_node_had_does_not_expire_before_it_counts_as_lost(
    tenths: int,
) -> None:
    """Seed 8191: in mode refresh with an `expire_s` shorter than `silence_s`."""
    settings = Settings(mode=REFRESH, refresh_interval_s=1.0, expire_s=2.0)
    story = Story("fw1", "fw2", settings=settings)
    flows = story.open("fw1", 20)
    story.wait(3.0 + tenths / 10)
    story.nodes["fw1"].stop()
    story.wait(6.0)
    assert len(story.peer("fw2", "fw1").flows) == len(flows)


def test_a_kernel_without_room_takes_what_fits_over_and_the_rest_later() -> None:
    """What was refused is still at the peer: another promotion tries it again."""
    story = Story("fw1", "fw2")
    story.promote("fw1")
    flows = story.open("fw1", 30)
    story.settle(1.0)
    kernel = story.nodes["fw2"].kernel
    kernel.limit = 12
    story.nodes["fw1"].stop()
    story.promote("fw2")
    assert len(kernel.flows) == 12
    kernel.limit = 0
    story.nodes["fw2"].command("demote")
    story.promote("fw2")
    assert kernel.flows.keys() == {flow.key for flow in flows}


def test_a_table_at_its_limit_keeps_what_fits_is_not_ready_and_heals() -> None:
    story = Story("fw1", "fw2", settings=Settings(peer_flows_limit=20))
    flows = story.open("fw1", 50)
    story.wait(2.0)
    assert len(story.peer("fw2", "fw1").flows) == 20
    assert not story.nodes["fw2"].running.ready
    story.close("fw1", flows[:40])
    story.settle(3.0)
    story.wait(1.5)
    assert story.nodes["fw2"].running.ready


def test_a_copy_full_of_ended_flows_makes_room_for_those_that_live() -> None:
    """Seed 20172: it asked for everything again before the sweep, for ever."""
    story = Story("fw1", "fw2", settings=Settings(peer_flows_limit=20))
    flows = story.open("fw1", 15)
    story.settle(1.0)
    story.isolate("fw2")
    story.close("fw1", flows)
    story.open("fw1", 15)
    story.wait(5.0)
    story.network.heal()
    story.settle(3.0)


def test_a_node_is_upgraded_in_mid_traffic() -> None:
    story = Story("fw1", "fw2", "fw3", pace=Pace(initial=20, births=20.0), old=("fw2",))
    node = story.nodes["fw2"]
    node.stop()
    node.old = False
    node.start()
    story.wait(1.0)
    story.stop_load()
    story.settle(3.0)
    assert story.peer("fw1", "fw2").version == (1, 1)
