"""Which link is used: what was heard on which goes in, places to send by come out."""

from syncd.replication.paths import Paths, PathState
from syncd.replication.settings import Settings

SETTINGS = Settings(hello_interval_s=0.5, silence_s=3.0, link_hellos=3, link_hold_s=5.0)
START = 100.0


class Story:
    """One node's view: peers that say HELLO by links that work or do not."""

    def __init__(self, links: int, *peers: str) -> None:
        self.now = START
        self.paths = Paths(SETTINGS)
        self.links = links
        self.peers = peers
        self.deaf: set[tuple[str, int]] = set()  # we do not hear the peer there
        self.unheard: set[tuple[str, int]] = set()  # it does not hear us there
        self.dead: set[str] = set()
        self.number = 0
        self.history: list[tuple[int, ...]] = []
        for place in range(links):
            self.set_link(place, usable=True)

    def set_link(self, place: int, *, usable: bool, frame_bytes: int = 1472) -> None:
        self.paths.link_changed(
            place, usable=usable, frame_bytes=frame_bytes, now=self.now
        )
        self.note()

    def note(self) -> None:
        if not self.history or self.history[-1] != self.paths.used:
            self.history.append(self.paths.used)

    def hello(self, name: str, room: int = 1472) -> None:
        """One HELLO of that peer, by every link that carries it."""
        self.number += 1
        places = range(self.links)
        heard_us = [place for place in places if (name, place) not in self.unheard]
        for place in places:
            if (name, place) not in self.deaf and place in self.paths.usable:
                self.paths.told(
                    name, 1, self.number, place, (place, room, 0.5), heard_us, self.now
                )
                self.note()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            for name in self.peers:
                if name not in self.dead:
                    self.hello(name)
            self.paths.choose(self.now)
            self.note()

    def state(self, place: int) -> PathState:
        return self.paths.status(place, self.now).state


def test_the_most_preferred_link_is_used_from_the_first_word_on() -> None:
    story = Story(2, "b")
    assert story.paths.used == (0,)
    story.run(1)
    assert story.paths.used == (0,)
    assert story.state(0) is PathState.ACTIVE
    assert story.state(1) is PathState.STANDBY
    assert not story.paths.switches


def test_a_link_that_hears_but_is_not_heard_is_not_good() -> None:
    story = Story(2, "b")
    story.run(2)
    story.unheard.add(("b", 0))
    story.run(0.5)
    assert story.paths.used == (1,)
    assert story.state(0) is PathState.UNHEARD
    assert story.paths.status(0, story.now).hears == ("b",)
    assert not story.paths.status(0, story.now).heard_by


def test_a_link_that_is_heard_but_does_not_hear_is_not_good() -> None:
    story = Story(2, "b")
    story.run(2)
    story.deaf.add(("b", 0))
    story.run(2.0)
    assert story.paths.used == (1,)
    assert story.state(0) is PathState.DEAF
    assert story.paths.hears() == (("b", (1,)),)


def test_a_link_that_is_silent_is_left_within_the_configured_intervals() -> None:
    story = Story(2, "b")
    story.run(2)
    story.deaf.add(("b", 0))
    story.unheard.add(("b", 0))
    story.peers = ()
    story.run(60)
    assert story.paths.used == (0,)  # nothing was heard on the other link either
    story.peers = ("b",)
    story.run(2.0)
    assert story.paths.used == (1,)
    assert story.state(0) is PathState.SILENT


def test_a_link_that_cannot_be_used_is_left_at_once() -> None:
    story = Story(2, "b")
    story.run(2)
    story.paths.news = False
    story.set_link(0, usable=False)
    assert story.paths.used == (1,)
    assert story.paths.news
    assert story.state(0) is PathState.WAITING
    assert story.paths.switches == 1


def test_the_preferred_link_is_taken_again_when_it_was_good_for_a_while() -> None:
    story = Story(2, "b")
    story.run(2)
    story.set_link(0, usable=False)
    story.run(1)
    story.set_link(0, usable=True)
    story.run(SETTINGS.link_hold_s - 1)
    assert story.paths.used == (1,)
    story.run(2)
    assert story.paths.used == (0,)


def test_a_link_that_flaps_has_to_be_good_for_longer_each_time() -> None:
    story = Story(2, "b")
    story.run(2)
    holds = []
    for _ in range(8):
        story.set_link(0, usable=False)
        story.run(1)
        story.set_link(0, usable=True)
        story.run(1)
        holds.append(story.paths.status(0, story.now).hold_s)
    assert holds == [5.0, 10.0, 20.0, 40.0, 80.0, 80.0, 80.0, 80.0]
    assert story.paths.switches == 1
    story.run(80)
    assert story.paths.used == (0,)
    story.run(400)
    story.set_link(0, usable=False)
    assert story.paths.status(0, story.now).hold_s == SETTINGS.link_hold_s


def test_a_link_on_trial_is_better_than_none() -> None:
    story = Story(2, "b")
    story.run(2)
    story.set_link(0, usable=False)
    story.run(1)
    story.set_link(0, usable=True)
    story.run(1)
    story.set_link(1, usable=False)
    story.run(0.5)
    assert story.paths.used == (0,)


def test_a_peer_that_dies_is_no_fault_of_a_link() -> None:
    story = Story(2, "b", "c")
    story.run(2)
    story.dead.add("b")
    story.run(10)
    assert story.history == [(0,)]
    assert story.paths.status(0, story.now).failures == 0
    assert story.paths.status(0, story.now).hears == ("c",)


def test_a_link_that_is_good_for_everybody_is_preferred_to_two_links() -> None:
    story = Story(3, "b", "c")
    story.deaf.add(("b", 0))
    story.deaf.add(("c", 1))
    story.run(2)
    assert story.paths.used == (2,)


def test_the_smallest_set_covers_everybody_when_no_single_link_does() -> None:
    story = Story(3, "b", "c", "d")
    story.deaf |= {("b", 0), ("c", 1), ("d", 2), ("d", 0), ("b", 2)}
    story.run(2)
    assert story.paths.used == (0, 1)
    assert not story.paths.is_beacon(0)
    assert story.paths.is_beacon(2)


def test_a_peer_that_hears_nothing_of_us_has_no_say() -> None:
    story = Story(2, "b", "c")
    story.unheard |= {("c", 0), ("c", 1)}
    story.run(2)
    assert story.paths.used == (0,)


def test_without_peers_every_link_that_can_be_used_carries_full_hellos() -> None:
    story = Story(2)
    assert story.paths.used == (0,)
    assert not story.paths.is_beacon(0)
    assert not story.paths.is_beacon(1)
    story.set_link(0, usable=False)
    story.set_link(1, usable=False)
    assert story.history[-1] == ()


def test_frames_fit_the_narrower_side_of_a_link() -> None:
    story = Story(2, "b")
    story.set_link(0, usable=True, frame_bytes=8972)
    story.hello("b", room=1472)
    assert story.paths.frame_bytes((0,)) == 1472
    story.hello("b", room=1)
    assert story.paths.frame_bytes((0,)) == 500  # nobody is believed to be so narrow
    story.set_link(1, usable=True, frame_bytes=548)
    assert story.paths.frame_bytes((0, 1)) == 500
    assert story.paths.frame_bytes(()) == 500


def test_a_peer_of_an_older_version_is_taken_at_what_is_heard_of_it() -> None:
    paths = Paths(SETTINGS)
    for place in (0, 1):
        paths.link_changed(place, usable=True, frame_bytes=1472, now=START)
    for number in range(8):
        paths.told("b", 1, number, 1, None, None, START + number / 2)
    assert paths.used == (1,)
    assert paths.hears() == (("b", ()),)


def test_a_late_word_does_not_replace_a_later_one() -> None:
    story = Story(2, "b")
    story.run(2)
    story.paths.told("b", 1, 1, 0, (0, 1472, 0.5), (), story.now)
    assert story.paths.used == (0,)


def test_data_shows_that_a_link_works() -> None:
    story = Story(2, "b")
    story.run(1)
    story.deaf.add(("b", 0))
    for _ in range(8):
        story.run(0.5)
        story.paths.heard("b", 1, 0, story.now)
    story.paths.heard("b", 2, 0, story.now)  # of another life: says nothing
    story.paths.heard("x", 1, 0, story.now)
    assert story.paths.used == (0,)


def test_another_life_of_a_peer_begins_anew() -> None:
    story = Story(2, "b")
    story.run(2)
    story.paths.told("b", 2, 1, 1, (1, 1472, 0.5), (1,), story.now)
    assert story.paths.used == (1,)


def test_who_is_no_peer_any_more_is_forgotten() -> None:
    story = Story(1, "b")
    story.run(1)
    story.paths.forget_all_but(())
    story.paths.choose(story.now)
    assert story.paths.hears() == ()
    assert story.state(0) is PathState.ACTIVE


def test_the_number_of_nodes_is_bounded() -> None:
    paths = Paths(SETTINGS)
    paths.link_changed(0, usable=True, frame_bytes=1472, now=START)
    for number in range(200):
        paths.told(f"n{number}", 1, 1, 0, (0, 1472, 0.5), (0,), START)
    assert len(paths.hears()) == 64
