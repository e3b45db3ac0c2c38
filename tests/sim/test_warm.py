"""Warm standbys, led by the hand: what seeds have found is in the unit tests."""

from syncd.flows.planting import lookups

from tests.sim.lapse import keep_alive, lapse
from tests.sim.requests import Requests
from tests.sim.story import Story
from tests.sim.warm import Warmth


def test_copies_outlast_their_timers_and_end_with_their_flows() -> None:
    story = Story("fw1", "fw2", warmth=Warmth())
    flows = story.open("fw1", 30)
    story.settle(2.0)
    keep_alive(story)
    lapse(story)
    kernel = story.nodes["fw2"].kernel
    assert kernel.flows.keys() == {flow.key for flow in flows}
    assert not story.nodes["fw2"].running.own.flows.bodies
    story.close("fw1", flows[:10])
    story.settle(2.0)
    assert kernel.flows.keys() == {flow.key for flow in flows[10:]}


def test_copies_of_a_primary_that_dies_are_there_and_become_own() -> None:
    story = Story("fw1", "fw2", warmth=Warmth())
    flows = story.open("fw1", 30)
    story.settle(2.0)
    story.nodes["fw1"].stop()
    node = story.nodes["fw2"]
    assert node.kernel.flows.keys() == {flow.key for flow in flows}
    node.command("promote")
    story.wait(1.0)
    assert node.running.own.flows.bodies.keys() == {flow.key for flow in flows}
    assert not node.running.own.planted


def test_a_silent_packet_makes_a_copy_own_when_it_is_looked_at() -> None:
    story = Story("fw1", "fw2", warmth=Warmth())
    (flow,) = story.open("fw1")
    story.settle(2.0)
    node = story.nodes["fw2"]
    node.kernel.refresh(node.kernel.flows[flow.key], 3600)
    story.close("fw1", [flow])
    story.wait(1.0)
    assert flow.key in node.kernel.flows
    assert flow.key in node.running.own.flows.bodies


def test_an_expired_entry_is_gone_for_requests_and_its_tuple_is_free() -> None:
    story = Story("fw1", "fw2", warmth=Warmth())
    (flow,) = story.open("fw1")
    story.settle(2.0)
    node = story.nodes["fw2"]
    assert node.warm is not None
    requests: Requests = node.warm.requests
    (lookup,) = lookups([flow.key])
    assert requests.exchange([lookup]).replies
    node.kernel.hide(node.kernel.flows[flow.key])
    assert requests.exchange([lookup]).refusals
    assert flow.key not in node.kernel.flows
    story.settle(2.0)
    assert flow.key in node.kernel.flows


def test_of_two_copies_that_cannot_both_be_the_first_stays_while_it_is_told() -> None:
    """Seed 125: what is an original tuple at one peer is a reply at the other."""
    story = Story("fw1", "fw2", "fw3", warmth=Warmth())
    kernel = story.nodes["fw3"].kernel
    (masqueraded,) = story.open("fw1")
    way = masqueraded.facts.orig._replace(numbers=(4711, 80))
    back = way._replace(source=way.target, target=way.source, numbers=(80, 4711))
    plain = masqueraded.facts._replace(orig=way, reply=back, status=0xE)
    story.close("fw1", [masqueraded])
    story.settle(2.0)
    one = story.nodes["fw1"].kernel.create(plain, 432000)
    facts = plain._replace(orig=back, reply=way)
    other = story.nodes["fw2"].kernel.create(facts, 432000)
    story.wait(1.0)
    (first,) = kernel.flows
    assert set(story.nodes["fw3"].running.own.planted) == {first}
    ends, second = ("fw1", other) if first == one.key else ("fw2", one)
    story.close(ends, [one if ends == "fw1" else other])
    story.wait(30.0)
    assert set(kernel.flows) == {second.key}
    assert set(story.nodes["fw3"].running.own.planted) == {second.key}


def test_what_a_restarted_peer_has_lost_and_another_tells_is_planted() -> None:
    """Seed 20607: the end of the one's table took the other's word with it."""
    story = Story("fw1", "fw2", "fw3", warmth=Warmth(beat_s=1.0))
    (flow,) = story.open("fw1")
    story.settle(3.0)
    node = story.nodes["fw3"]
    assert node.warm is not None
    peers = node.running.peers
    body = peers["fw1"].flows.bodies[flow.key]
    node.kernel.delete(flow.key, b"")
    node.warm.standby.register.forget(flow.key)
    peers["fw2"].flows.put([flow.key, body], 1.0)
    peers["fw1"].flows.begin_sweep()
    peers["fw1"].swept = False
    node.running.agreement._sweep(peers["fw1"], 1.0)
    assert flow.key in (peers["fw2"].flows.touched or ())
