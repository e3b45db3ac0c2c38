"""Engines with several links between them: no flow is lost when one of them fails."""

import random
from collections.abc import Iterator

import pytest
from syncd.replication.peer import PeerState
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put

Cut = tuple[int, str, str]  # wire, from, to


class Wired(Talk):
    """Nodes on several wires, each of which may be cut in one direction."""

    def __init__(
        self, *names: str, wires: int = 2, settings: Settings | None = None
    ) -> None:
        self.wires = wires
        self.cuts: set[Cut] = set()
        self.orders: dict[str, list[int]] = {}  # place -> wire, when not the same
        self.sizes: dict[int, int] = {}
        super().__init__(*names, settings=settings)

    def plug(self) -> None:
        for engine in self.engines.values():
            for place, wire in enumerate(self.order(engine.node)):
                size = self.sizes.get(wire, self.settings.frame_bytes)
                engine.link_changed(place, usable=True, frame_bytes=size)

    def turn(self) -> None:
        """Everybody sends once, everybody else who can hear it does."""
        for name, engine in list(self.engines.items()):
            engine.tick(self.now)
            for place, datagram in engine.send(self.now):
                wire = self.order(name)[place]
                assert len(datagram) <= self.sizes.get(wire, 1400)
                for other, receiver in list(self.engines.items()):
                    if other != name and (wire, name, other) not in self.cuts:
                        at = self.order(other).index(wire)
                        assert receiver.receive(datagram, at, name, self.now) is None

    def order(self, name: str) -> list[int]:
        return self.orders.get(name, list(range(self.wires)))

    def cut(self, wire: int, *ways: tuple[str, str]) -> None:
        self.cuts |= {(wire, *way) for way in ways}

    def load(self, seconds: float, first: int) -> None:
        """Ten flows begin at each step."""
        for step in range(round(seconds / 0.01)):
            put(
                self.engines["a"].own, *range(first + 10 * step, first + 10 * step + 10)
            )
            self.run(0.01)


@pytest.fixture
def wired() -> Iterator[Wired]:
    made = Wired("a", "b")
    made.plug()
    made.run(1)
    assert made.engines["a"].paths.used == (0,)
    yield made
    assert all(
        peer.state is PeerState.IN_STEP
        for engine in made.engines.values()
        for peer in engine.peers.values()
    )


@pytest.mark.parametrize(
    "ways", [(("a", "b"),), (("b", "a"),), (("a", "b"), ("b", "a"))]
)
def test_a_wire_that_is_cut_gives_way_to_the_next_without_a_lost_flow(
    wired: Wired, ways: tuple[tuple[str, str], ...]
) -> None:
    wired.load(1, 1000)
    wired.cut(0, *ways)
    wired.load(1, 3000)
    wired.run(1.5)
    assert wired.engines["a"].paths.used == (1,)
    assert wired.copy("b", "a") == wired.own("a")
    resyncs = wired.engines["b"].peers["a"].inbox.latest_pass
    wired.cuts.clear()
    wired.load(1, 5000)
    wired.run(7)
    assert wired.engines["a"].paths.used == (0,)
    assert wired.copy("b", "a") == wired.own("a")
    assert wired.engines["b"].peers["a"].inbox.latest_pass == resyncs


def test_the_streams_of_a_good_link_are_not_disturbed_by_the_other(
    wired: Wired,
) -> None:
    inboxes = [p.inbox for e in wired.engines.values() for p in e.peers.values()]
    before = [(inbox.lost_frames, inbox.late_frames) for inbox in inboxes]
    wired.load(5, 1000)
    wired.run(0.2)
    assert wired.copy("b", "a") == wired.own("a")
    after = [(inbox.lost_frames, inbox.late_frames) for inbox in inboxes]
    assert after == before


def test_a_peer_is_lost_only_when_it_is_silent_on_every_link(wired: Wired) -> None:
    wired.cut(0, ("a", "b"), ("b", "a"))
    for _ in range(100):
        wired.run(0.1)
        assert wired.engines["a"].peers["b"].live
    wired.cut(1, ("a", "b"), ("b", "a"))
    wired.run(4)
    assert wired.engines["a"].peers["b"].state is PeerState.LOST
    wired.cuts.clear()
    wired.run(2)


def test_nodes_need_not_list_their_links_in_the_same_order() -> None:
    wired = Wired("a", "b")
    wired.orders["b"] = [1, 0]
    wired.plug()
    wired.run(2)
    wired.cut(0, ("a", "b"))
    wired.load(3, 1000)
    wired.run(0.5)
    assert wired.engines["a"].paths.used == (1,)
    assert wired.engines["b"].paths.used == (0,)
    assert wired.copy("b", "a") == wired.own("a")


def test_each_of_three_nodes_is_reached_by_a_link_of_its_own() -> None:
    wired = Wired("a", "b", "c", wires=3)
    for one, other, wire in (("a", "b", 0), ("a", "c", 1), ("b", "c", 2)):
        for cut in {0, 1, 2} - {wire}:
            wired.cut(cut, (one, other), (other, one))
    wired.plug()
    wired.load(2, 1000)
    wired.run(1)
    assert wired.engines["a"].paths.used == (0, 1)
    for name in ("b", "c"):
        assert wired.engines[name].peers["a"].state is PeerState.IN_STEP
        assert wired.copy(name, "a") == wired.own("a")
    assert len(wired.copy("b", "c")) == len(wired.own("c"))


def test_frames_fit_the_link_that_they_leave_by() -> None:
    wired = Wired("a", "b", settings=Settings(frame_bytes=8900))
    wired.sizes = {0: 1400, 1: 548}
    wired.plug()
    wired.load(1, 1000)
    wired.cut(0, ("a", "b"))
    wired.load(3, 3000)
    wired.run(0.5)
    assert wired.copy("b", "a") == wired.own("a")


def test_a_new_life_is_found_by_whichever_link_it_is_heard_on(wired: Wired) -> None:
    wired.cut(0, ("a", "b"), ("b", "a"))
    put(wired.engines["a"].own, 1)
    wired.start("b", epoch=77)
    wired.plug()
    wired.run(3)
    assert flow_key(1) in wired.copy("b", "a")


@pytest.mark.parametrize("seed", range(40))
def test_links_that_flap_in_any_direction_leave_equal_tables(seed: int) -> None:
    rng = random.Random(seed)
    names = ("a", "b", "c")[: rng.choice((2, 2, 3))]
    wired = Wired(*names, wires=rng.choice((2, 3)))
    wired.sizes = {wire: rng.choice((548, 1400)) for wire in range(wired.wires)}
    orders = [rng.sample(range(wired.wires), wired.wires) for _ in names]
    wired.orders = dict(zip(names, orders, strict=True))
    wired.plug()
    pairs = [(one, other) for one in names for other in names if one != other]
    for step in range(20):
        for _ in range(rng.randrange(4)):
            wired.cuts ^= {(rng.randrange(wired.wires), *rng.choice(pairs))}
        if rng.random() < 0.2:
            name, place = rng.choice(names), rng.randrange(wired.wires)
            size = wired.sizes[wired.order(name)[place]]
            usable = rng.random() < 0.5
            wired.engines[name].link_changed(place, usable=usable, frame_bytes=size)
        put(wired.engines[rng.choice(names)].own, *range(100 * step, 100 * step + 50))
        wired.run(rng.choice((0.1, 0.5, 1.5)), 0.02)
    wired.cuts.clear()
    wired.plug()
    wired.run(5, 0.02)
    for one, other in pairs:
        assert wired.copy(one, other) == wired.own(other), (one, other)
        assert wired.engines[one].peers[other].state is PeerState.IN_STEP
