"""The one object the outside talks to: five verbs, and what came of them.

In: kernel messages, datagrams, the time. Out: datagrams, keys to look up in the
kernel, log lines, and the tables. The rule of the room: nothing here waits or reads a
clock; `now` is the caller's monotonic clock in seconds and never goes back.

After each of `kernel_events`, `receive` and `tick` the caller asks `take_lookups`,
`send` and `deadline`.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from syncd.errors import FrameError
from syncd.flows.admission import Admission
from syncd.flows.filter import RecordFilter
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader
from syncd.replication.agreement import Agreement
from syncd.replication.departure import Departure
from syncd.replication.frame import Frame, Numbered
from syncd.replication.hello import Hello, Item
from syncd.replication.pace import Pace
from syncd.replication.peer import Peer, PeerEvent, PeerState
from syncd.replication.readiness import Readiness
from syncd.replication.roles import BACKUP, FAULT, PRIMARY, Roles
from syncd.replication.seal import ENFORCE, PERMISSIVE, Sealer, Security
from syncd.replication.settings import Settings

_LOOKUPS_AT_ONCE = 1024  # some 5 ms of the kernel's time
_RELEASE_INTERVAL_S = 0.25
_LOOKUPS_LIMIT = 32 * 1024  # more than this: read the whole kernel table


class ReplicationEngine:
    """One node's part in the cluster."""

    def __init__(
        self,
        node: str,
        epoch: int,
        settings: Settings,
        record_filter: RecordFilter,
        now: float,
        security: Security | None = None,
    ) -> None:
        """`security` is off when it is not given."""
        self.node = node
        self.epoch = epoch
        self.settings = settings
        self.reader = RecordReader()
        self.own = Own()
        self.proven = False  # is the frame received last of a life that goes on?
        self.agreement = Agreement(node, epoch, settings, self.own, now)
        self.outbox = self.agreement.outbox
        self.comparison = self.agreement.comparison
        self._pace = Pace()
        self.dump_wanted = True
        self.kernel_read = False  # was the kernel's table read once in full?
        self.sealer = Sealer(node, epoch, security or Security())
        self.paths = self.agreement.paths
        self.departure = Departure(self.agreement.coder, self.sealer, self.paths)
        self._switches = 0  # of the links, as far as they are in the log
        self._paths_at = now  # when the links are judged again
        self.admission = Admission(self.own, record_filter)
        self.readiness = Readiness(now, settings.silence_s, settings.ready_timeout_s)
        self._now = now
        self._release_at = now  # when held ends are looked through again
        self._security_changed()
        self.link_changed(0, usable=True, frame_bytes=settings.frame_bytes)

    @property
    def peers(self) -> dict[str, Peer]:
        """Every other node that was heard in this life, by name."""
        return self.agreement.peers

    @property
    def roles(self) -> Roles:
        """This node's role and claim."""
        return self.agreement.roles

    # The kernel's side

    def kernel_events(self, messages: Sequence[bytes], now: float) -> None:
        """Take netlink messages: events, and replies to single GETs."""
        self._go_on(now)
        self.admission.events(self.reader.read(messages), now)
        if len(self.own.lookups) > _LOOKUPS_LIMIT:
            self.own.lookups.clear()
            self.dump_wanted = True
        self.dump_wanted |= self.admission.reread

    def take_lookups(self) -> list[bytes]:
        """Keys of flows to GET from the kernel now; more may be left."""
        lookups = self.own.lookups
        keys = list(islice(lookups, _LOOKUPS_AT_ONCE))
        for key in keys:
            del lookups[key]
        return keys

    def take_ended_elsewhere(self) -> list[bytes]:
        """Keys of flows to delete from the kernel: their owner has ended them."""
        keys = self.agreement.ended_elsewhere
        self.agreement.ended_elsewhere = []
        return keys

    def begin_dump(self, now: float) -> None:
        """A dump of the kernel's tables starts (events are subscribed before)."""
        self._now = now
        self.dump_wanted = False
        self.admission.begin_dump(now)

    def dump_part(self, messages: Sequence[bytes], now: float) -> None:
        """A part of the dump, flows before expectations."""
        self._now = now
        self.admission.dump_part(self.reader.read(messages), now)

    def end_dump(self, now: float) -> int:
        """The dump is complete: sweep; return how many records were gone."""
        self._now = now
        self.kernel_read = True
        return self.admission.end_dump(now)

    def abort_dump(self) -> None:
        """The dump failed: what it showed so far stays, nothing is swept."""
        self.admission.abort_dump()

    def change_filter(self, record_filter: RecordFilter) -> None:
        """Another filter from now on; the next dump makes the tables obey it."""
        self.admission.change_filter(record_filter)
        self.dump_wanted = True

    def use_addresses(self, addresses: frozenset[bytes], now: float) -> None:
        """The addresses of this node, packed, as they are now."""
        self._now = now
        self.admission.use_addresses(addresses, now)

    def use_fate(self, items: Iterable[Item], now: float) -> None:
        """What this node's kernel is set to, as it is now.

        It is read on a beat of its own: whether this node stood still (`_go_on`) is
        seen by what follows.
        """
        self.agreement.use_fate(items, now)

    # The peers' side

    def link_changed(self, place: int, *, usable: bool, frame_bytes: int) -> None:
        """The fact about the link at this place, and what a datagram of it holds."""
        now = self._now
        if self.paths.link_changed(
            place, usable=usable, frame_bytes=frame_bytes, now=now
        ):
            self._follow_paths(now)

    def _follow_paths(self, now: float) -> None:
        """What became of the links: tell the peers, and write a switch down."""
        paths, agreement = self.paths, self.agreement
        if paths.news:
            paths.news = False
            agreement.hello_at = now
        if paths.switches == self._switches:
            return
        self._switches = paths.switches
        if paths.used:
            places = ", ".join(str(place + 1) for place in paths.used)
            level = "info" if paths.used == (0,) else "warning"
            agreement.say(level, f"sending over link {places} from now on")
        else:
            agreement.say("warning", "no link is active: nothing can be sent")
        if self.outbox.unacked:  # what was on the way may be lost: ask at once
            agreement.probe_at = now

    def change_security(self, security: Security, now: float) -> None:
        """Other keys or another mode from now on."""
        self._now = now
        self.sealer.change(security)
        self._security_changed()
        self.agreement.hello_at = now

    def _security_changed(self) -> None:
        self.agreement.key_ids = self.sealer.security.ids

    @property
    def sealing(self) -> bool:
        """Do frames leave sealed now?"""
        security = self.sealer.security
        if security.mode != PERMISSIVE:
            return security.mode == ENFORCE
        return self.agreement.all_open(security.sending)

    def receive(
        self, datagram: bytes, place: int, source: str, now: float
    ) -> str | None:
        """Take one datagram; the reason for which it was refused, or None.

        `place` is that of the link that it came over.
        """
        self._go_on(now)
        self.proven = False
        try:
            coder = self.agreement.coder
            envelope = coder.unwrap(datagram)
            content = coder.content(self.sealer.open(envelope, datagram))
        except FrameError as error:
            text = f"refused from {source}: {error}"
            self.agreement.say_once(error.reason, source, text)
            return error.reason
        frame = Frame(envelope.sender, envelope.epoch, envelope.number, content)
        if isinstance(content, Hello):
            refused = self._receive_hello(frame, content, (place, source), now)
        else:
            self.paths.heard(frame.sender, frame.epoch, place, now)
            refused = self.agreement.receive(frame, source, now)
        self.proven = refused is None and self.agreement.goes_on(frame)
        return refused

    def _receive_hello(
        self, frame: Frame, hello: Hello, origin: tuple[int, str], now: float
    ) -> str | None:
        """A beacon of a life that we follow tells of its link, and nothing else."""
        place, source = origin
        name, way = frame.sender, hello.way
        refused = None
        peer = self.peers.get(name)
        followed = peer is not None and peer.live and peer.inbox.epoch == frame.epoch
        if followed and peer is not None and way is not None and way.beacon:
            peer.heard_at = now
        else:
            refused = self.agreement.receive(frame, source, now)
            peer = self.peers.get(name)
        if peer is None or name == self.node or peer.inbox.epoch != frame.epoch:
            return refused
        hears = dict(hello.hears or ())
        self.paths.told(
            *(name, frame.epoch, frame.number, place),
            None if way is None else (way.via, way.room, way.interval_ms / 1000),
            hears.get(self.node),
            now,
        )
        self._follow_paths(now)
        return refused

    # What leaves

    def send(self, now: float) -> list[tuple[int, bytes]]:
        """The datagrams that are due, each with the place of its link.

        What does not fit the burst is due at once.
        """
        self._now = now
        if not self.paths.usable:
            return []
        self.outbox.payload_bytes = self.departure.room(self.node, self.paths.used)
        frames = self._frames(now)
        hellos = self._hellos(now)
        origin = None if self.sealing else (self.node, self.epoch)
        return self.departure.wrap(origin, frames, hellos)

    def _frames(self, now: float) -> list[Numbered]:
        """The frames that are due."""
        agreement, outbox = self.agreement, self.outbox
        frames: list[Numbered] = []
        if outbox.acked:
            if self._pass_due():
                agreement.begin_pass()
            self._send_data(frames, now)
            room = outbox.window_frames - len(outbox.unacked)
            limit = min(self.settings.burst_frames - len(frames), room)
            frames += agreement.refresh.frames(outbox, self.own, limit, now)
            agreement.narrow.left(frames, outbox.payload_bytes)
            if outbox.advance_pass(self.own):
                agreement.hello_at = now
        else:
            outbox.forget_marks(self.own)
        return frames

    def _hellos(self, now: float) -> list[tuple[int, Hello]]:
        """HELLO, when it is due."""
        agreement = self.agreement
        hellos: list[tuple[int, Hello]] = []
        probe = agreement.probe_due(now)
        due = max(min(agreement.hello_at, agreement.ack_at), agreement.quiet_until)
        if probe or now >= due:
            room = self.departure.room(self.node, self.paths.usable)
            reply = probe or not self.outbox.acked
            hellos = agreement.hellos(reply, now, room)
            agreement.told_at = now
            agreement.hello_at = now + self.settings.hello_interval_s
            gap_s = self.settings.hello_gap_s * len(self.peers) * len(hellos)
            agreement.quiet_until = now + min(gap_s, self.settings.hello_interval_s / 2)
            agreement.ack_at = math.inf
            agreement.unacknowledged_frames = 0
        return hellos

    def _send_data(self, frames: list[Numbered], now: float) -> None:
        """A due proof, marks; a running pass has every fourth frame for itself.

        Marks fill a window that is always full: a proof behind them would never leave.
        """
        outbox, own = self.outbox, self.own
        limit = self.settings.burst_frames
        around = self.paths.frame_bytes(self.paths.used) - outbox.payload_bytes
        frames += self.agreement.narrow.frames(outbox, around, now)
        frames += self.comparison.proofs(outbox, own, now)
        while outbox.window_open and len(frames) < limit:
            frame = None
            if outbox.running is not None and len(frames) % 4 == 0:
                frame = outbox.pack_pass(own)
            frame = frame or outbox.pack_marks(own) or outbox.pack_pass(own)
            if frame is None:
                break
            frames.append(frame)
        frames += self.comparison.inventories(outbox, own, now)
        frames += self.comparison.proofs(outbox, own, now)

    # Time

    def deadline(self) -> float | None:
        """When `tick` and `send` are due again, on the caller's clock."""
        if not self.paths.usable:
            return self._now + self.settings.hello_interval_s / 2
        if self._work_waits():
            return self._now
        agreement = self.agreement
        due = min(agreement.hello_at, agreement.ack_at, agreement.probe_at)
        due = min(max(due, agreement.quiet_until), self.admission.deadline())
        if self._pace.watching:
            due = min(due, self._now + self.settings.slow_peer_s / 4)
        if self.outbox.acked and self.outbox.window_open:
            due = min(due, agreement.refresh.deadline())
        silence = self.settings.silence_s
        for peer in self.peers.values():
            if peer.live:
                due = min(due, min(peer.heard_at, peer.progress_at) + silence)
        due = min(due, agreement.narrow.deadline(self.outbox))
        proof_at = self.comparison.deadline(self.outbox, self.own, self._now)
        return max(min(due, proof_at), self._now)

    def _work_waits(self) -> bool:
        if self.outbox.acked and not self.outbox.window_open:
            return False
        running = self.outbox.running
        return bool(
            self.own.flows.marks
            or self.own.expectations.marks
            or (running is not None and not running.at_end)
            or self._pass_due()
        )

    def _pass_due(self) -> bool:
        return self.kernel_read and self.agreement.pass_due()

    def tick(self, now: float) -> None:
        """What time alone brings: silent peers, proofs that are too old."""
        self._go_on(now)
        self.admission.tick(now)
        self.comparison.tick(self.peers, self.outbox, self.own, now)
        if now >= self._paths_at:
            self._paths_at = now + self.settings.hello_interval_s / 2
            self.paths.forget_all_but(self.peers)
            self.paths.choose(now)
            self._follow_paths(now)
        self._look_ready(now)
        self.agreement.silent_peers(now)
        self._look_for_slow(now)
        self.agreement.expire(now)
        self.agreement.forget_departed(now)
        self.agreement.forget_strangers(now)
        if now >= self._release_at and self.own.flows.held:
            self._release_at = now + _RELEASE_INTERVAL_S
            overtaken = self.roles.overtaken(self.peers.values())
            self.own.flows.release_due(math.inf if overtaken else now)

    def _go_on(self, now: float) -> None:
        """A node that stood still for long has missed it knows not what."""
        stood_s, self._now = now - self._now, now
        if stood_s >= self.settings.silence_s:
            self.readiness.restart(now)
            self.agreement.silent_peers(now)

    def _look_for_slow(self, now: float) -> None:
        """Peers that hold the others up fall out of the window."""
        outbox, limit_s = self.outbox, self.settings.slow_peer_s
        running = outbox.running
        waiting = bool(
            self.own.flows.marks
            or self.own.expectations.marks
            or (running is not None and not running.at_end)
        )
        peers = self.peers
        for name in self._pace.look(
            outbox, peers, waiting=waiting, limit_s=limit_s, now=now
        ):
            self.agreement.suspend(peers[name], now)

    def _look_ready(self, now: float) -> None:
        """Keep the time; say so once when waiting is over."""
        overdue = self.readiness.overdue
        lacking = self.readiness.look(self.peers.values(), now)
        if self.readiness.overdue and not overdue:
            timeout_s = self.settings.ready_timeout_s
            text = f"ready after {timeout_s:g} s of waiting, although {lacking}"
            self.agreement.say("warning", text)

    # Commands

    def promote(self, now: float) -> None:
        """The traffic is ours: after the peers' flows are in this kernel."""
        self._change_role(PRIMARY, now)

    def demote(self, now: float) -> None:
        """Give the traffic away; ends are held back until somebody takes over."""
        self._change_role(BACKUP, now)

    def fault(self, now: float) -> None:
        """This node cannot carry traffic."""
        self._change_role(FAULT, now)

    def _change_role(self, role: str, now: float) -> None:
        self._now = now
        self.agreement.role_given = True
        if role == PRIMARY:
            self.roles.promote(self.peers.values(), self.own)
        else:
            self.roles.retire(role, self.peers.values(), self.own, now)
        self.agreement.hello_at = now

    def pull(self, now: float, node: str | None = None) -> None:
        """Ask the peers (or one) for everything."""
        for peer in self.peers.values():
            if peer.inbox.epoch and node in (None, peer.name):
                peer.inbox.want_resync()
                if peer.state is PeerState.IN_STEP:
                    peer.move(PeerEvent.RESYNC)
        self.agreement.hello_at = self._now = now

    def forget_peers(self) -> int:
        """Empty the peers' tables; they count as in step again after a pull."""
        count = 0
        for peer in self.peers.values():
            count += peer.flows.clear() + peer.expectations.clear()
            peer.swept = peer.inbound_equal = peer.compared = False
            if peer.state is PeerState.IN_STEP:
                peer.move(PeerEvent.RESYNC)
        return count

    def push(self, now: float) -> None:
        """Tell the peers everything again; ends that they missed are swept."""
        self._now = now
        for peer in self.peers.values():
            if peer.name in self.outbox.acked:
                self.outbox.renew(peer.name)
                peer.remote_wants = 0
                if peer.state is PeerState.IN_STEP:
                    peer.move(PeerEvent.RESYNC)
        self.agreement.hello_at = now

    def hurry(self, now: float) -> None:
        """Have the peers acknowledge at once: somebody waits for it."""
        self._now = now
        if self.outbox.unacked:
            self.agreement.probe_at = now

    def verify(self, now: float) -> None:
        """Compare digests with everybody; see `Peer.inbound_at` and `outbound_at`."""
        self.comparison.verify(self.peers, now)
        self.agreement.hello_at = self._now = now

    # What came of it

    @property
    def ready(self) -> bool:
        """Could this node take over now without losing what a live peer knows?"""
        if self.roles.role == FAULT or not self.kernel_read or self._twin:
            return False
        return not self.lacking or self.readiness.overdue

    @property
    def _twin(self) -> str:
        """Another node of our name, if the others may listen to that one."""
        served = self.agreement.outbox.services
        return "" if served else self.agreement.membership.twin_source

    @property
    def lacking(self) -> str:
        """What is missing for a takeover without loss, or nothing."""
        if not self.kernel_read:
            return "this node's own kernel is not read yet"
        if self._twin:
            return f"{self._twin} has the same name"
        return self.readiness.lacking(self.peers.values(), self._now)

    def take_messages(self) -> list[tuple[str, str]]:
        """Log lines since the last call: (level, text)."""
        return self.agreement.take_messages()
