"""Which links reach whom: the places that DATA leaves by.

In: facts about links, and which link each authentic frame of a peer came over. Out:
`used`, the places that every DATA frame leaves by; `hears`, what we tell the peers
about them; a state for each link. A place is a link's position in the configuration.

The rule of the room: a place is good for a peer when we hear the peer on it and the
peer says that it hears us on it. `used` is the most preferred place that is good for
every peer that can be reached, else the smallest set that reaches each of them. It is
left at once when it is not good any more; a better one is taken when it has been good
for a while, and for longer each time that it fails again.

A link is silent when the peer was heard on *another* link for some hello intervals. So
a peer that is silent everywhere, or a pause of this node, is no fault of a link.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations

from syncd.replication.hello import Way
from syncd.replication.settings import Settings

_UNSAID = -1  # a peer of protocol 1.0 does not say by which link it sends
_ROOM_LEAST = 500  # no link is narrower; a peer that says so is not believed
_INTERVAL_LIMIT_S = 60.0
_HOLD_GROWTH = 16  # times the first hold time at most
_CALM_HOLDS = 4  # hold times without a failure, after which all is forgiven
_ROUTES_LIMIT = 64
_STALE = -1e9


class PathState(StrEnum):
    """What a link is good for now.

    `waiting`: cannot be used; `active`: DATA leaves by it; `standby`: good, not needed;
    `deaf`: peers hear us, we hear nobody; `unheard`: we hear peers that do not hear us;
    `silent`: nobody is heard although peers are alive on other links.
    """

    WAITING = "waiting"
    ACTIVE = "active"
    STANDBY = "standby"
    DEAF = "deaf"
    UNHEARD = "unheard"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class PathStatus:
    """What `status` says about one link."""

    state: PathState
    hears: tuple[str, ...]  # the peers that we hear on it
    heard_by: tuple[str, ...]  # the peers that say that they hear us on it
    frame_bytes: int  # what fits, after what the peers say about their side
    narrow: bool  # is that less than both sides can take?
    switches: int  # how often it was taken into use, or left
    last_switch_s: float | None  # how long ago that was, None: never
    failures: int  # how often it lost a peer that was reachable otherwise
    hold_s: float  # how long it has to be good to be preferred again


@dataclass(slots=True)
class _Link:
    usable: bool = False
    frame_bytes: int = 0
    limit: int = 0  # of the network between, 0: none is known
    reach: frozenset[str] = frozenset()
    since: float = _STALE  # when `reach` last changed
    failed_at: float = _STALE
    hold_s: float = 0.0
    switches: int = 0
    switched_at: float | None = None
    failures: int = 0


@dataclass(slots=True)
class _Route:
    """One peer, in one life of it."""

    epoch: int
    heard: dict[tuple[int, int], float] = field(default_factory=dict)
    vias: dict[int, int] = field(default_factory=dict)  # place -> the peer's place
    rooms: dict[int, int] = field(default_factory=dict)  # place -> what fits there
    latest: float = _STALE
    limit_s: float = 0.0  # for so long a link may lag behind the others
    number: int = 0  # of the HELLO that said what is below
    hears_us: frozenset[int] | None = frozenset()  # None: it never says


class Paths:
    """The links of one node and the peers behind them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.used: tuple[int, ...] = ()
        self.switches = 0
        self.news = False  # is there something that peers should hear at once?
        self._links: dict[int, _Link] = {}
        self._routes: dict[str, _Route] = {}
        self._goods: dict[str, frozenset[int]] = {}
        self._told: dict[str, tuple[int, ...]] = {}
        self._usable: list[int] = []
        self._ends_at: dict[int, int] = {}  # place -> what `_ends` has said

    # What happens

    def link_changed(
        self, place: int, *, usable: bool, frame_bytes: int, now: float
    ) -> bool:
        """The facts about one link; is anything new?"""
        link = self._links.setdefault(place, _Link())
        if (link.usable, link.frame_bytes) == (usable, frame_bytes):
            return False
        link.usable, link.frame_bytes = usable, frame_bytes
        self._usable = sorted(at for at, known in self._links.items() if known.usable)
        self._ends_at.clear()
        link.limit = 0  # it may be another network
        if not usable:  # what was heard there says nothing any more
            for route in self._routes.values():
                for key in [key for key in route.heard if key[0] == place]:
                    del route.heard[key]
                route.vias.pop(place, None)
                route.rooms.pop(place, None)
        self.news = True
        self.choose(now)
        return True

    def heard(self, name: str, epoch: int, place: int, now: float) -> None:
        """A frame that says nothing about links came over this place."""
        route = self._routes.get(name)
        if route is not None and route.epoch == epoch and place in route.vias:
            route.heard[place, route.vias[place]] = route.latest = now

    def told(
        self,
        name: str,
        epoch: int,
        number: int,
        place: int,
        link: tuple[int, int, float] | None,
        hears_us: Collection[int] | None,
        now: float,
    ) -> None:
        """A HELLO came over this place.

        `link` is what it says about the link that it left by: the peer's place, the
        room for a frame, its hello interval; None when the peer knows no such thing.
        `hears_us` are the places of ours that the peer hears, None when this HELLO is
        not about us.
        """
        via, room, interval_s = link or (_UNSAID, 0, 0.0)
        route = self._routes.get(name)
        if route is None or route.epoch != epoch:
            if route is None and len(self._routes) >= _ROUTES_LIMIT:
                return
            route = self._routes[name] = _Route(epoch)
            self._ends_at.clear()
        route.heard[place, via] = route.latest = now
        route.vias[place] = via
        route.limit_s = self._limit_s(min(interval_s, _INTERVAL_LIMIT_S))
        if room:
            room = max(room, _ROOM_LEAST)
            if route.rooms.get(place) != room:
                route.rooms[place] = room
                self._ends_at.clear()
        if link is None:
            route.hears_us = None
        elif hears_us is not None and number >= route.number:
            route.number = number
            route.hears_us = frozenset(hears_us)
        self.choose(now)

    def forget_all_but(self, names: Collection[str]) -> None:
        """Any other node is not a peer any more."""
        for name in [name for name in self._routes if name not in names]:
            del self._routes[name]
            self._ends_at.clear()

    def choose(self, now: float) -> None:
        """See what is good, and change `used` if that has to be."""
        silence_s = self.settings.silence_s
        goods: dict[str, frozenset[int]] = {}
        told: dict[str, tuple[int, ...]] = {}
        for name, route in self._routes.items():
            told[name] = ()
            if now - route.latest >= silence_s:
                continue
            fresh = _fresh(route)
            good = frozenset([place for place, _ in fresh])
            if route.hears_us is not None:  # it hears us on these
                good &= route.hears_us
            if good:
                goods[name] = good
            told[name] = tuple(sorted({via for _, via in fresh if via != _UNSAID}))
        for place, link in self._links.items():
            reach = frozenset([name for name, good in goods.items() if place in good])
            if reach != link.reach:
                self._reach_changed(link, reach, goods, now)
        self._goods = goods
        if told != self._told:
            self._told = told
            self.news = True
        used = self._chosen(now)
        if used != self.used:
            self._switch(used, now)

    # What came of it

    @property
    def usable(self) -> list[int]:
        """The places by which datagrams can leave, most preferred first."""
        return self._usable

    def is_beacon(self, place: int) -> bool:
        """Does a HELLO by this place only show that the link works?

        The peers' streams go over other links: it must not overtake them.
        """
        return bool(self._goods) and place not in self.used

    def frame_bytes(self, places: Iterable[int]) -> int:
        """What fits into a datagram on each of these places."""
        return min((self._room(place) for place in places), default=_ROOM_LEAST)

    def wide(self, places: Iterable[int]) -> int:
        """The same, if the network between were as wide as its ends."""
        return min((self._ends(place) for place in places), default=_ROOM_LEAST)

    def narrow(self, places: Iterable[int], limit: int) -> None:
        """No larger frame passes the network behind these places; 0: any does."""
        for place in places:
            self._links[place].limit = limit

    def room(self, place: int) -> int:
        """What this node can take by this place, for the peers to know."""
        return self._links[place].frame_bytes

    def way(self, place: int) -> Way:
        """What a HELLO says of the link at this place that it leaves by."""
        interval_ms = round(self.settings.hello_interval_s * 1000)
        return Way(place, self.room(place), interval_ms, self.is_beacon(place))

    def hears(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The places of each peer that we hear."""
        return tuple(self._told.items())

    def status(self, place: int, now: float) -> PathStatus:
        """What is to be said about one link."""
        link = self._links.get(place, _Link())
        live = {
            name: route
            for name, route in self._routes.items()
            if now - route.latest < self.settings.silence_s
        }
        hears = tuple(sorted(n for n, r in live.items() if place in _places(r)))
        said = {n: r.hears_us for n, r in live.items() if r.hears_us is not None}
        heard_by = tuple(
            n for n in sorted(live) if (place in said[n] if n in said else n in hears)
        )
        if not link.usable:
            state = PathState.WAITING
        elif place in self.used and (link.reach or not live):
            state = PathState.ACTIVE
        elif link.reach or not live:
            state = PathState.STANDBY
        elif hears:
            state = PathState.UNHEARD
        elif heard_by:
            state = PathState.DEAF
        else:
            state = PathState.SILENT
        return PathStatus(
            *(state, hears, heard_by, self._room(place) if link.frame_bytes else 0),
            bool(link.limit) and link.limit < self._ends(place),
            link.switches,
            None if link.switched_at is None else round(now - link.switched_at, 3),
            *(link.failures, link.hold_s),
        )

    # Judgement

    def _limit_s(self, interval_s: float) -> float:
        """How long a link may lag behind the others before it counts as silent."""
        settings = self.settings
        interval_s = max(settings.hello_interval_s, interval_s)
        return max(
            1.2 * interval_s,
            min(settings.link_hellos * interval_s, settings.silence_s / 2),
        )

    def _room(self, place: int) -> int:
        """The smallest of what the two sides and the network between can take."""
        ends, limit = self._ends(place), self._links[place].limit
        return min(ends, limit) if limit else ends

    def _ends(self, place: int) -> int:
        """The smaller of what the two sides can take."""
        ends = self._ends_at.get(place)
        if ends is None:
            rooms = [r.rooms[place] for r in self._routes.values() if place in r.rooms]
            ends = min((self._links[place].frame_bytes, *rooms))
            self._ends_at[place] = ends
        return ends

    def _reach_changed(
        self,
        link: _Link,
        reach: frozenset[str],
        goods: dict[str, frozenset[int]],
        now: float,
    ) -> None:
        """A link that loses a peer which others still reach has failed."""
        lost = {name for name in link.reach - reach if name in goods}
        if lost or (link.reach - reach and not link.usable):
            base = self.settings.link_hold_s
            calm = now - link.failed_at > _CALM_HOLDS * max(link.hold_s, base)
            grown = min(2 * link.hold_s, _HOLD_GROWTH * base)
            link.hold_s = base if calm else grown
            link.failed_at = now
            link.failures += 1
        if lost or reach - link.reach:
            link.since = now
        link.reach = reach

    def _trusted(self, place: int, now: float) -> bool:
        link = self._links[place]
        return place in self.used or now - link.since >= link.hold_s

    def _chosen(self, now: float) -> tuple[int, ...]:
        """The places that DATA should leave by."""
        usable = self.usable
        wanted = self._goods.values()
        if not wanted:  # nobody can be reached: stay, or take the first
            kept = tuple(place for place in self.used if place in usable)
            return kept or tuple(usable[:1])
        places = [place for place in usable if self._links[place].reach]
        trusted = [place for place in places if self._trusted(place, now)]
        return _cover(trusted, wanted) or _cover(places, wanted) or self.used

    def _switch(self, used: tuple[int, ...], now: float) -> None:
        if self.used:
            self.switches += 1
            for place in set(used) ^ set(self.used):
                self._links[place].switches += 1
                self._links[place].switched_at = now
        self.used = used
        self.news = True


def _cover(
    places: list[int], wanted: Collection[frozenset[int]]
) -> tuple[int, ...] | None:
    """The first smallest set of places that has one in each of `wanted`."""
    for size in range(1, len(places) + 1):
        for chosen in combinations(places, size):
            if all(not good.isdisjoint(chosen) for good in wanted):
                return chosen
    return None


def _fresh(route: _Route) -> list[tuple[int, int]]:
    """(place, via) of what was heard as lately as anything of that peer."""
    since = route.latest - route.limit_s
    return [key for key, at in route.heard.items() if at >= since]


def _places(route: _Route) -> set[int]:
    return {place for place, _ in _fresh(route)}
