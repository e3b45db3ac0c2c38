"""The driver around one engine: what the daemon's node does, in virtual time.

In: events of a model kernel, datagrams of a model network, commands. Out: the engine's
verbs in the order of the real node: drain at a beat, look up, dump in paced chunks,
receive, tick, send. Between a chunk's writing and its reading the kernel goes on, for
the real one writes a chunk ahead.
"""

import random
from collections import deque
from dataclasses import dataclass

from syncd.config_filter import FilterConfig
from syncd.flows.filter import RecordFilter
from syncd.replication.departure import Departure
from syncd.replication.engine import ReplicationEngine
from syncd.replication.fate import Items
from syncd.replication.seal import Security
from syncd.replication.settings import Settings

from tests.sim.clock import Action, Clock, LocalClock
from tests.sim.faults import ROLES
from tests.sim.kernel import Chunk, ModelKernel, Place
from tests.sim.network import ModelNetwork, Parcel
from tests.sim.old import old_engine
from tests.sim.wakes import Wakes
from tests.sim.warm import SimulatedStandby, Warmth
from tests.sim.watch import Violation, Watch, standing

_FIRST: Place = (-1, b"")
_AT_ONCE_LIMIT = 200  # sends at one instant before it counts as a busy loop
_SAME_S = 1e-9
_SOCKET_OVERHEAD = 512  # bytes that the kernel accounts beside a small datagram


@dataclass(frozen=True, slots=True)
class Habits:
    """How this node is driven; times in virtual seconds."""

    beat_s: float = 0.005
    drain_limit: int = 512
    queue_limit: int = 4096
    sticky_queue: bool = False
    chunk: int = 40
    chunk_gap_s: float = 0.002
    dump_failure: float = 0.0  # share of the chunks
    receive_bytes: int = 1 << 20  # in the socket buffer of a node that is paused
    clock_origin: float = 1000.0  # what its own clock shows at the beginning
    clock_rate: float = 1.0  # its seconds in one of the world's


class SimulatedNode:
    """One daemon, its kernel and its place on the network."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        network: ModelNetwork,
        rng: random.Random,
        watch: Watch,
        settings: Settings,
        habits: Habits,
        security: Security | None = None,
    ) -> None:
        self.name = name
        self.kernel = ModelKernel(clock, rng)
        self.engine: ReplicationEngine | None = None
        self.settings = settings
        self.habits = habits
        self.security = security or Security()
        self.old = False  # does it run the engine of protocol 1.0?
        self.rekeyed = False  # do keys or modes differ in the cluster, or did they?
        self.fate: Items | None = None  # what its kernel is set to
        self.warmth: Warmth | None = None  # with this it is a warm standby
        self.warm: SimulatedStandby | None = None  # in this life
        self.looked_through = False  # has it looked at each copy since the load?
        self._down: set[int] = set()  # wires without a carrier
        sizes = (settings.frame_bytes, 1400, 600)
        self._frame_bytes = sizes[: network.wires]
        self.wakes = Wakes(name, clock)
        self.dumps = 0
        self.losses = 0
        self.log: list[str] = []
        self.faulty = True  # may reads of the kernel fail?
        self.uncertain = True  # have events been lost that no dump has made good?
        self.local = LocalClock(clock, habits.clock_origin, habits.clock_rate)
        self.clock = clock
        self._network = network
        self.rng = rng
        self.watch = watch
        self._life = 0
        self._paused = False
        self._arrived: deque[Parcel] = deque()
        self._arrived_bytes = 0
        self._drain_due = False
        self.dumping = False
        self.dumped = False
        self.adopting: Action | None = None  # what was committed, a moment later
        self._wake_at = 0.0
        network.join(name, self.arrive)

    @property
    def running(self) -> ReplicationEngine:
        """The engine of a node that is up."""
        assert self.engine is not None, f"{self.name} is down"
        return self.engine

    @property
    def paused(self) -> bool:
        """Does it get no CPU?"""
        return self._paused

    def start(self) -> None:
        """A new life: subscribe, then read the kernel's table."""
        now = self.local.now
        self._life += 1
        self._arrived.clear()
        self._arrived_bytes = 0
        self._drain_due = self.dumping = self.dumped = self._paused = False
        self.adopting = None
        self._wake_at = 0.0
        self.uncertain = True
        habits = self.habits
        queue = self.kernel.listen(habits.queue_limit, sticky=habits.sticky_queue)
        queue.wake = self._events_wait
        everything = RecordFilter(FilterConfig(), expectations=True)
        epoch = self.rng.getrandbits(48)
        if self.old:
            self.engine = old_engine(self.name, epoch, self.settings, now)
        else:
            self.engine = ReplicationEngine(
                self.name, epoch, self.settings, everything, now, self.security
            )
            self._share_coder(self.engine)
        self.set_fate(self.fate)
        self._tell_links()
        self.watch.started(self.name, self.engine)
        self.warm = None
        if self.warmth is not None and not self.old:
            self.warm = SimulatedStandby(self, self.warmth)
        self.note(f"starts, epoch {epoch:x}")
        self.pump()

    def _share_coder(self, engine: ReplicationEngine) -> None:
        """What all nodes read and write alike is not done anew by each."""
        engine.agreement.coder = coder = self._network.coder
        engine.departure = Departure(coder, engine.sealer, engine.paths)

    def set_fate(self, fate: Items | None) -> None:
        """From now on, and in later lives; it leaves with what leaves next."""
        self.fate = fate
        if fate is not None and self.engine is not None and not self.old:
            self.engine.use_fate(fate, self.local.now)

    def stop(self) -> None:
        """SIGKILL: the kernel keeps its table, the daemon forgets everything."""
        self._life += 1
        self.engine = None
        self.kernel.queue.closed = True
        self.note("stops")

    def pause(self, seconds: float) -> None:
        """The daemon gets no CPU; its sockets fill."""
        if self.engine is None or self._paused:
            return
        self._paused = True
        self.note(f"pauses for {seconds:.3f} s")
        self.later(seconds, self._resume)

    def command(self, word: str) -> None:
        """An operator's or a failover script's command."""
        if self.engine is None or self._paused:
            return
        self.note(word)
        now = self.local.now
        if self.warm is not None and word in ROLES:
            self.warm.settle()
        match word:
            case "promote" if self.warm is not None:
                self.warm.promote()
            case "promote":
                self.engine.promote(now)
            case "demote":
                self.engine.demote(now)
            case "fault":
                self.engine.fault(now)
            case "pull":
                self.engine.pull(now)
            case "push":
                self.engine.push(now)
            case "verify":
                self.engine.verify(now)
            case "resync kernel":
                self.begin_dump()
            case "catch up":
                self.drain_all()
            case _:
                raise ValueError(word)
        self.watch.own(self)
        self.pump()

    def jump(self, seconds: float) -> None:
        """Its clock is further on than it was, all at once."""
        self.local.jump(seconds)
        self.kernel.timers_jumped()
        self.note(f"its clock jumps by {seconds:.1f} s")
        if self.engine is not None and not self._paused:
            self._wake_at = 0.0
            self.pump()

    def arrive(self, parcel: Parcel) -> None:
        """A datagram is in the socket."""
        if self.engine is None:
            return
        if self._paused:
            size = len(parcel.datagram) + _SOCKET_OVERHEAD
            if self._arrived_bytes + size <= self.habits.receive_bytes:
                self._arrived.append(parcel)
                self._arrived_bytes += size
            return
        self._receive(parcel)
        self.wakes.woken_by_others()
        self.pump()

    def _receive(self, parcel: Parcel) -> None:
        engine, source = self.running, parcel.source
        before = None
        if not parcel.intact:
            engine.tick(self.local.now)  # what time changes is no fault of the frame
            self.watch.own(self)
            before = standing(self)
        refused = engine.receive(parcel.datagram, parcel.wire, source, self.local.now)
        if not parcel.intact:
            if refused is None:
                raise Violation(f"{self.name} took a false frame of {source}")
            if standing(self) != before:
                raise Violation(f"a false frame of {source} changed {self.name}")
            return
        if refused == "replay" and (engine.sealing or self.rekeyed):
            refused = None  # the network, or an attacker, has doubled it
        if refused == "auth" and self.rekeyed:
            refused = None  # of a key that is gone here, or was not here yet
        if refused is not None and source != self.name and not parcel.hostile:
            raise Violation(f"{self.name} refused a frame of {source}: {refused}")
        self.watch.peers(self, source)
        self.watch.own(self)

    def carrier(self, wire: int, *, up: bool) -> None:
        """One of its interfaces gets or loses its carrier."""
        self._down.discard(wire) if up else self._down.add(wire)
        self.note(f"link {wire} is {'up' if up else 'down'}")
        if self.engine is not None:
            self._tell_links()
            if not self._paused:
                self.pump()

    def _tell_links(self) -> None:
        for wire, frame_bytes in enumerate(self._frame_bytes):
            self.running.link_changed(
                wire, usable=wire not in self._down, frame_bytes=frame_bytes
            )

    def change_security(self, security: Security) -> None:
        """Other keys, or another mode, from now on and in later lives."""
        self.security = security
        keys = ",".join(key.hex() for key in security.keys)
        self.note(f"security {security.mode}, sends {security.sending.hex()} of {keys}")
        if self.engine is not None:
            self.engine.change_security(security, self.local.now)
            if not self._paused:
                self.pump()

    def _resume(self) -> None:
        """What comes first then, a timer or a socket, nobody knows."""
        self._paused = False
        if self.rng.random() < 0.5:
            self.pump()
        arrived, self._arrived = self._arrived, deque()
        self._arrived_bytes = 0
        for parcel in arrived:
            self._receive(parcel)
        self._drain()

    # The kernel's side

    def _events_wait(self) -> None:
        if not self._drain_due:
            self._drain_due = True
            self.later(self.habits.beat_s, self._drain)

    def _drain(self) -> None:
        if self._paused:
            self._drain_due = False
            return
        self._drain_due = False
        self._drain_once()
        if self.kernel.queue.waiting:
            self._events_wait()
        self._settle()
        self.pump()

    def _drain_once(self) -> None:
        queue = self.kernel.queue
        events = queue.drain(self.habits.drain_limit)
        if events:
            self.running.kernel_events(events, self.local.now)
            self.look_up()
            self.watch.own(self)
        losses = queue.check_losses()
        if losses:
            self.losses += losses
            self.running.own.flows.disturbed = None
            self.uncertain = True
            self.dumped = False
            self.running.dump_wanted = True
            self.note(f"lost {losses} events")

    def drain_all(self) -> None:
        """What happened up to now has to be known before a dump and its sweep."""
        while self.kernel.queue.waiting:
            self._drain_once()

    def _settle(self) -> None:
        """A whole dump since the last loss and no event waiting: nothing is unknown."""
        queue = self.kernel.queue
        if (
            self.dumped
            and not self.dumping
            and not queue.waiting
            and not queue.losses_unseen
        ):
            self.uncertain = False

    def look_up(self) -> None:
        """Ask the kernel about what events do not tell."""
        engine = self.running
        found = (self.kernel.get(key) for key in engine.take_lookups())
        replies = [reply for reply in found if reply is not None]
        if replies:
            engine.kernel_events(replies, self.local.now)

    def begin_dump(self) -> None:
        """Read the kernel's tables, from the beginning."""
        if self.dumping:
            self.running.dump_wanted = True
            return
        self.dumping = True
        self.dumps += 1
        self.later(self._gap(), self._first_chunk)

    def _first_chunk(self) -> None:
        if self._paused:
            self.later(0.01, self._first_chunk)
            return
        self.drain_all()
        self.dumped = True  # unless something is lost until its end
        self.running.begin_dump(self.local.now)
        self._read_chunk("flows", self.kernel.dump_flows(_FIRST, self.habits.chunk))

    def _read_chunk(self, kind: str, chunk: Chunk) -> None:
        """Later, hand over this chunk; the next is written at that moment."""
        self.later(self._gap(), lambda: self._take_chunk(kind, chunk))

    def _take_chunk(self, kind: str, chunk: Chunk) -> None:
        if self._paused:
            self.later(0.01, lambda: self._take_chunk(kind, chunk))
            return
        engine, now = self.running, self.local.now
        replies, cursor = chunk
        if self.faulty and self.rng.random() < self.habits.dump_failure:
            self.note("a dump fails")
            self.dumping = False
            engine.abort_dump()
            engine.dump_wanted = True
        elif replies:
            dump = self.kernel.dump_flows
            if kind != "flows":
                dump = self.kernel.dump_expectations
            following = dump(cursor, self.habits.chunk)
            engine.dump_part(replies, now)
            self.look_up()
            self.watch.own(self)
            self._read_chunk(kind, following)
        elif kind == "flows":
            limit = self.habits.chunk
            self._read_chunk(
                "expectations", self.kernel.dump_expectations(_FIRST, limit)
            )
        else:
            self.drain_all()
            self.dumping = False
            engine.end_dump(now)
            self.look_up()
            self.watch.own(self)
            self._settle()
        self.pump()

    def _gap(self) -> float:
        return self.rng.uniform(0.2, 2.0) * self.habits.chunk_gap_s

    # What leaves

    def pump(self) -> None:
        """Tick and send what is due, then wait for the deadline."""
        engine = self.engine
        if self._paused or engine is None:
            return
        now = self.local.now
        if engine.dump_wanted and not self.dumping:
            self.begin_dump()
        for _ in range(_AT_ONCE_LIMIT):
            self.wakes.woke()
            held = len(engine.own.flows.held)
            engine.tick(now)
            for key in engine.take_ended_elsewhere():
                ident = b"" if self.old else engine.own.flows.ident(key)
                self.kernel.delete(key, ident)
                flows = engine.own.flows
                (flows.end if self.old else flows.end_for_all)(key)
                held = -1
            if held != len(engine.own.flows.held):
                self.watch.own(self)  # ends that were held back came true
            for wire, datagram in engine.send(now):
                if len(datagram) > self._frame_bytes[wire]:
                    raise Violation(f"{self.name} sends {len(datagram)} bytes at once")
                if wire in self._down:
                    raise Violation(f"{self.name} sends over a link that is down")
                self._network.send(self.name, datagram, wire)
            if not self.old:  # nodes of 1.0 answer each other at once
                gap_s = self.settings.hello_gap_s * len(engine.peers)
                self.wakes.said_hello(engine.agreement.told_at, gap_s)
            due = engine.deadline()
            if due is None or due > now:
                break
        else:
            raise Violation(f"{self.name} is busy for ever: deadline {due} at {now}")
        self.watch.bounds(self)
        self.watch.ready(self)
        for level, text in engine.take_messages():
            self.note(f"{level}: {text}")
        if due is not None:
            self._wake_by(self.local.due(due))

    def _wake_by(self, due: float) -> None:
        """In the world's time."""
        if self._wake_at <= self.clock.now or due < self._wake_at - _SAME_S:
            self._wake_at = due
            self.clock.at(due, self._in_this_life(self._wake))

    def _wake(self) -> None:
        if not self._paused and self._wake_at <= self.clock.now:
            self.pump()

    def later(self, delay: float, action: Action) -> None:
        """Do it after so many seconds, unless the daemon has ended by then."""
        self.clock.after(delay, self._in_this_life(action))

    def _in_this_life(self, action: Action) -> Action:
        """The action, unless this life of the daemon is over by then."""
        life = self._life

        def act() -> None:
            if self._life == life:
                action()

        return act

    def note(self, text: str) -> None:
        """A line of the story."""
        self.log.append(f"{self.clock.now:10.4f} {self.name}: {text}")
