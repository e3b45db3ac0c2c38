"""What seeds have found, told by hand: it stays found when the draw changes.

Each story names the seed that found it first, and fails without the change that was
made then.
"""

import random

from syncd.replication.settings import REFRESH, Settings

from tests.sim.cluster import Cluster
from tests.sim.ctnetlink import UDP
from tests.sim.network import Weather
from tests.sim.node import Habits
from tests.sim.opening import Opening, announce
from tests.sim.plan import Plan
from tests.sim.story import QUIET, Story

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
