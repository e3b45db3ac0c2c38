"""The one object the outside talks to: five verbs, and what came of them.

In: kernel messages, datagrams, the time. Out: datagrams, keys to look up in the
kernel, log lines, and the tables. The rule of the room: nothing here waits or reads a
clock; `now` is the caller's monotonic clock in seconds and never goes back.

After each of `kernel_events`, `receive` and `tick` the caller asks `take_lookups`,
`send` and `deadline`.
"""

import math
from collections.abc import Sequence
from itertools import islice

from syncd.errors import FrameError
from syncd.flows.filter import RecordFilter
from syncd.flows.reader import RecordReader
from syncd.flows.record import END, EXP_END, Record

from tests.frozen.v1_0.agreement import Agreement, Settings
from tests.frozen.v1_0.own import Own
from tests.frozen.v1_0.peer import Peer, PeerEvent, PeerState
from tests.frozen.v1_0.roles import BACKUP, FAULT, PRIMARY, Roles

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
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.settings = settings
        self.reader = RecordReader()
        self.own = Own()
        self.agreement = Agreement(node, epoch, settings, self.own, now)
        self.outbox = self.agreement.outbox
        self.comparison = self.agreement.comparison
        self.dump_wanted = True
        self.kernel_read = False  # was the kernel's table read once in full?
        self._filter = record_filter
        self._started_at = now
        self._now = now
        self._release_at = now  # when held ends are looked through again

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
        self._now = now
        self.own.apply(self._admitted(self.reader.read(messages)), now)
        if len(self.own.lookups) > _LOOKUPS_LIMIT:
            self.own.lookups.clear()
            self.dump_wanted = True

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
        self.own.begin_dump()

    def dump_part(self, messages: Sequence[bytes], now: float) -> None:
        """A part of the dump, flows before expectations."""
        self._now = now
        self.own.fill(self._admitted(self.reader.read(messages)))

    def end_dump(self, now: float) -> int:
        """The dump is complete: sweep; return how many records were gone."""
        self._now = now
        self.kernel_read = True
        return self.own.end_dump(now)

    def abort_dump(self) -> None:
        """The dump failed: what it showed so far stays, nothing is swept."""
        self.own.abort_dump()

    def change_filter(self, record_filter: RecordFilter) -> None:
        """Another filter from now on; the next dump makes the tables obey it."""
        self._filter = record_filter
        for table in (self.own.flows, self.own.expectations):
            unwanted = [
                key
                for key, body in table.bodies.items()
                if not record_filter.accepts(key, body)
            ]
            for key in unwanted:
                table.end(key)
        self.dump_wanted = True

    def _admitted(self, records: list[Record]) -> list[Record]:
        """Drop what the filter does not want; what it no longer wants has ended."""
        if self._filter.empty:
            return records
        admitted = []
        for record in records:
            kind, key, body, _, _ = record
            if kind in (END, EXP_END) or self._filter.accepts(key, body):
                admitted.append(record)
                continue
            self.own.ignored += 1
            self.own.flows.end(key)
            self.own.expectations.end(key)
        return admitted

    # The peers' side

    def receive(self, datagram: bytes, source: str, now: float) -> str | None:
        """Take one datagram; the reason for which it was refused, or None."""
        self._now = now
        try:
            frame = self.agreement.coder.unpack(datagram)
        except FrameError as error:
            text = f"refused from {source}: {error}"
            self.agreement.say_once(error.reason, source, text)
            return error.reason
        return self.agreement.receive(frame, source, now)

    # What leaves

    def send(self, now: float) -> list[bytes]:
        """The datagrams that are due; what does not fit the burst is due at once."""
        self._now = now
        agreement, outbox = self.agreement, self.outbox
        datagrams: list[bytes] = []
        if outbox.acked:
            if self._pass_due():
                agreement.begin_pass()
            self._send_data(datagrams, now)
            if outbox.advance_pass(self.own):
                agreement.hello_at = now
        else:  # whoever comes will be told everything
            self.own.flows.marks.clear()
            self.own.expectations.marks.clear()
        probe = self._probe_due(now)
        if probe or now >= agreement.hello_at or now >= agreement.ack_at:
            datagrams += agreement.hellos(probe or not outbox.acked)
            agreement.hello_at = now + self.settings.hello_interval_s
            agreement.ack_at = math.inf
            agreement.unacknowledged_frames = 0
        return datagrams

    def _probe_due(self, now: float) -> bool:
        """Has nobody acknowledged for too long? The last frames may be lost."""
        agreement = self.agreement
        if not self.outbox.unacked:
            agreement.probe_at = math.inf
            agreement.probe_wait_s = self.settings.probe_interval_s
        elif agreement.probe_at == math.inf:
            agreement.probe_at = now + agreement.probe_wait_s
        elif now >= agreement.probe_at:
            interval = self.settings.hello_interval_s
            agreement.probe_wait_s = min(2 * agreement.probe_wait_s, interval)
            agreement.probe_at = now + agreement.probe_wait_s
            return True
        return False

    def _send_data(self, datagrams: list[bytes], now: float) -> None:
        """Marks first; a running pass has every fourth frame for itself."""
        outbox, own = self.outbox, self.own
        limit = self.settings.burst_frames
        while outbox.window_open and len(datagrams) < limit:
            datagram = None
            if outbox.running is not None and len(datagrams) % 4 == 0:
                datagram = outbox.pack_pass(own)
            datagram = datagram or outbox.pack_marks(own) or outbox.pack_pass(own)
            if datagram is None:
                break
            datagrams.append(datagram)
        if (
            self.comparison.due(now)
            and outbox.window_open
            and outbox.running is None
            and not own.flows.marks
            and not own.expectations.marks
        ):
            datagram = outbox.pack_marks(own, self.comparison.marker + 1)
            if datagram is not None:
                self.comparison.take_snapshot(own)
                datagrams.append(datagram)

    # Time

    def deadline(self) -> float | None:
        """When `tick` and `send` are due again, on the caller's clock."""
        if self._work_waits():
            return self._now
        due = min(
            self.agreement.hello_at, self.agreement.ack_at, self.agreement.probe_at
        )
        silence = self.settings.silence_s
        for peer in self.peers.values():
            if peer.live:
                due = min(due, min(peer.heard_at, peer.progress_at) + silence)
        outbox = self.outbox
        if outbox.acked and outbox.running is None and outbox.window_open:
            due = min(due, self.comparison.deadline())
        return max(due, self._now)

    def _work_waits(self) -> bool:
        if self.comparison.working(self.peers):
            return True
        if not self.outbox.acked or not self.outbox.window_open:
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
        """What time alone brings: silent peers, a slice of a comparison."""
        self._now = now
        comparison = self.comparison
        if comparison.working(self.peers) and comparison.proceed(self.peers, now):
            self.agreement.hello_at = now
        self.agreement.silent_peers(now)
        self.agreement.forget_departed(now)
        if now >= self._release_at and self.own.flows.held:
            self._release_at = now + _RELEASE_INTERVAL_S
            self.own.flows.release_due(now)

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
            self.roles.retire(role, self.peers.values(), self.own)
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
            peer.swept = peer.inbound_equal = False
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
        self.comparison.ask(now)
        self.agreement.hello_at = self._now = now

    # What came of it

    @property
    def ready(self) -> bool:
        """Could this node take over now without losing what a live peer knows?"""
        if self.roles.role == FAULT or not self.kernel_read:
            return False
        live = [peer for peer in self.peers.values() if peer.live]
        if any(peer.state is not PeerState.IN_STEP for peer in live):
            return False
        return bool(live) or self._now - self._started_at >= self.settings.silence_s

    def take_messages(self) -> list[tuple[str, str]]:
        """Log lines since the last call: (level, text)."""
        return self.agreement.take_messages()
