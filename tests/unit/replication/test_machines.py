"""Outbox, inbox and peer as machines: any order of what can happen to them.

In: steps that hypothesis draws, and shortens when a rule is broken. Out: what holds
after every step, and equality once everything that was sent has come or is known lost.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from syncd.flows.own import Own
from syncd.replication.frame import Coder, Data, Numbered
from syncd.replication.inbox import SATISFIED, Inbox
from syncd.replication.outbox import Outbox
from syncd.replication.peer import TRANSITIONS, Peer, PeerEvent, PeerState

from tests.unit.replication.talk import flow_key, put

_LIVE = (PeerState.SYNCING, PeerState.IN_STEP)
_WINDOW = 6
_FLOWS = st.integers(0, 11)
_PEERS = st.sampled_from(("b", "c"))
_CODER = Coder()


class Receiver:
    """A peer as `Agreement` leads it: an inbox and a copy."""

    def __init__(self, highest: int) -> None:
        self.inbox = Inbox()
        self.inbox.open(1, highest)
        self.copy: dict[bytes, bytes] = {}
        self.stale: set[bytes] = set()
        self.wire: list[Numbered] = []

    def take(self, frame: Numbered) -> None:
        """One frame, whenever it comes."""
        number, payload = frame
        if not self.inbox.accept(number):
            return
        data = _CODER.content(payload)
        assert isinstance(data, Data)
        self.inbox.forget_below(data.floor)
        if data.resync and self.inbox.begins(data.resync):
            self.stale = set(self.copy)
        for key, body in zip(data.flows[::2], data.flows[1::2], strict=True):
            self.copy[key] = body
            self.stale.discard(key)
        for key in data.flow_ends:
            self.copy.pop(key, None)
            self.stale.discard(key)

    def told(self, service: int, completed: int) -> None:
        """The sender's HELLO, which says how far its pass is."""
        self.inbox.served(service)
        if completed and self.inbox.completes(completed):
            for key in self.stale:
                del self.copy[key]
            self.stale.clear()


class Stream(RuleBasedStateMachine):
    """One outbox, two receivers, and a wire that loses, doubles and turns around."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Own()
        self.outbox = Outbox(_CODER, _WINDOW, 400)
        self.peers: dict[str, Receiver] = {}
        self.states: dict[bytes, list[bytes | None]] = {}
        self.passes = 0

    @initialize()
    def begin(self) -> None:
        for name in ("b", "c"):
            self.join(name)

    def join(self, name: str) -> None:
        self.outbox.join(name)
        self.peers[name] = Receiver(self.outbox.number)

    # What happens to the flows

    def note(self, number: int) -> None:
        key = flow_key(number)
        state = self.own.flows.bodies.get(key)
        self.states.setdefault(key, [None]).append(state)

    @rule(number=_FLOWS, seconds=st.integers(1, 9))
    def flow_changes(self, number: int, seconds: int) -> None:
        put(self.own, number, seconds=seconds)
        self.note(number)

    @rule(number=_FLOWS)
    def flow_ends(self, number: int) -> None:
        self.own.flows.end(flow_key(number))
        self.note(number)

    # What happens on the way

    @rule()
    def send_marks(self) -> None:
        if self.outbox.acked and self.outbox.window_open:
            self.put_on_wire(self.outbox.pack_marks(self.own))

    @rule()
    def send_pass(self) -> None:
        wanting = [n for n, p in self.peers.items() if p.inbox.wants != SATISFIED]
        if self.outbox.running is None and wanting:
            self.passes += 1
            self.outbox.begin_pass(self.passes, self.own, wanting)
        if self.outbox.window_open:
            self.put_on_wire(self.outbox.pack_pass(self.own))

    def put_on_wire(self, frame: Numbered | None) -> None:
        if frame is not None:
            assert len(frame[1]) <= 400
            for peer in self.peers.values():
                peer.wire.append(frame)

    @rule(name=_PEERS, at=st.integers(0, 20), again=st.booleans())
    def frame_comes(self, name: str, at: int, again: bool) -> None:
        peer = self.peers[name]
        if peer.wire:
            frame = peer.wire[at % len(peer.wire)]
            if not again:
                peer.wire.remove(frame)
            peer.take(frame)

    @rule(name=_PEERS, at=st.integers(0, 20))
    def frame_is_lost(self, name: str, at: int) -> None:
        wire = self.peers[name].wire
        if wire:
            del wire[at % len(wire)]

    @rule(name=_PEERS)
    def peer_acknowledges(self, name: str) -> None:
        inbox = self.peers[name].inbox
        self.outbox.acknowledge(name, inbox.highest, tuple(inbox.lost), self.own)
        self.outbox.advance_pass(self.own)

    @rule(name=_PEERS)
    def peer_is_told(self, name: str) -> None:
        outbox = self.outbox
        done = outbox.completed.get(name, 0)
        self.peers[name].told(outbox.services[name], done)

    @rule(name=_PEERS)
    def peer_restarts(self, name: str) -> None:
        self.outbox.leave(name)
        self.join(name)

    @rule(name=_PEERS)
    def peer_is_served_anew(self, name: str) -> None:
        self.outbox.leave(name)
        self.outbox.join(name)

    # What holds

    @invariant()
    def window_is_kept(self) -> None:
        assert len(self.outbox.unacked) <= _WINDOW
        assert self.outbox.floor <= self.outbox.number + 1

    @invariant()
    def marks_are_of_known_flows(self) -> None:
        assert self.own.flows.marks.keys() <= self.states.keys()

    @invariant()
    def nothing_is_invented(self) -> None:
        for peer in self.peers.values():
            for key, body in peer.copy.items():
                assert body in self.states[key]

    def teardown(self) -> None:
        """What is on the way is lost; after some rounds all are equal."""
        for peer in self.peers.values():
            peer.wire.clear()
        for _ in range(40):
            for name in self.peers:
                self.peer_is_told(name)
            for _ in range(_WINDOW):
                self.send_marks()
                self.send_pass()
            if self.outbox.window_open or self.peers:
                self.probe()
            for name, peer in self.peers.items():
                while peer.wire:
                    peer.take(peer.wire.pop(0))
                self.peer_acknowledges(name)
        for peer in self.peers.values():
            assert peer.inbox.wants == SATISFIED
            assert peer.copy == self.own.flows.bodies
        assert not self.outbox.unacked
        assert not self.own.flows.marks

    def probe(self) -> None:
        """A HELLO has a number too: what has not come before it is lost."""
        self.outbox.number += 1
        for peer in self.peers.values():
            while peer.wire:
                peer.take(peer.wire.pop(0))
            peer.inbox.accept(self.outbox.number)


class Numbers(RuleBasedStateMachine):
    """The inbox against a plain set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.epoch = 0
        self.open(0)

    @rule(first=st.integers(0, 50))
    def open(self, first: int) -> None:
        self.epoch += 1
        self.inbox.open(self.epoch, first)
        self.first, self.taken, self.floor = first, {first}, first
        assert self.inbox.wants == 0

    @rule(step=st.integers(-3, 6))
    def come(self, step: int) -> None:
        number = self.inbox.highest + step
        late = self.inbox.late_frames
        assert self.inbox.accept(number) == (step > 0)
        assert self.inbox.late_frames - late == (step <= 0)
        if step > 0:
            self.taken.add(number)

    @rule(back=st.integers(0, 30))
    def floor_rises(self, back: int) -> None:
        self.floor = max(self.floor, self.inbox.highest - back)
        self.inbox.forget_below(self.floor)

    @rule(number=st.integers(1, 30))
    def pass_comes(self, number: int) -> None:
        inbox = self.inbox
        latest, wants, holes = inbox.latest_pass, inbox.wants, inbox.holes
        begins = inbox.begins(number)
        assert begins == (number > latest and wants != SATISFIED and not holes)

    @rule(number=st.integers(1, 30))
    def pass_ends(self, number: int) -> None:
        inbox = self.inbox
        begun, wants, latest = inbox.begun, inbox.wants, inbox.latest_pass
        if inbox.completes(number):
            assert begun == number > wants >= 0
            assert inbox.wants == SATISFIED
        elif wants != SATISFIED and number > max(latest, wants):
            assert inbox.wants == number  # it was lost as a whole
        else:
            assert inbox.wants == wants

    @rule(number=st.integers(0, 5))
    def served(self, number: int) -> None:
        before = self.inbox.service
        self.inbox.served(number)
        assert number == before or self.inbox.wants >= self.inbox.latest_pass

    @invariant()
    def what_did_not_come_is_lost(self) -> None:
        inbox = self.inbox
        assert inbox.highest == max(self.taken)
        lost = {n for first, last in inbox.lost for n in range(first, last + 1)}
        every = set(range(max(self.floor, self.first), inbox.highest + 1))
        if inbox.wants == SATISFIED or len(inbox.lost) < 100:
            assert lost == every - self.taken
        assert len(inbox.lost) <= 128
        assert inbox.lost == sorted(inbox.lost)

    @invariant()
    def ended_lives_stay_ended(self) -> None:
        assert not self.inbox.is_ended(self.epoch)
        if self.epoch > 1:
            assert self.inbox.is_ended(self.epoch - 1)


class States(RuleBasedStateMachine):
    """A peer goes where the table says, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = Peer("b")
        self.heard = False

    @rule(event=st.sampled_from(PeerEvent))
    def happens(self, event: PeerEvent) -> None:
        before = self.peer.state
        if (before, event) in TRANSITIONS:
            self.peer.move(event)
            self.heard = self.heard or event is PeerEvent.HEARD
            assert self.peer.state is TRANSITIONS[before, event]
        else:
            with pytest.raises(KeyError):
                self.peer.move(event)
            assert self.peer.state is before

    @invariant()
    def is_live_only_when_heard(self) -> None:
        assert self.peer.live == (self.peer.state in _LIVE)
        assert self.heard or not self.peer.live
        assert self.peer.state is PeerState.IN_STEP or not self.peer.verified


for _machine in (Stream, Numbers, States):
    _machine.TestCase.settings = settings(
        max_examples=60, stateful_step_count=40, deadline=None
    )
TestStream = Stream.TestCase
TestNumbers = Numbers.TestCase
TestStates = States.TestCase


def test_a_pass_does_not_wait_for_a_flow_that_ended_untold() -> None:
    stream = Stream()
    stream.begin()
    stream.send_pass()
    stream.flow_changes(number=7, seconds=1)
    stream.peer_acknowledges(name="b")
    stream.flow_ends(number=7)
    stream.peer_is_served_anew(name="c")
    stream.frame_comes(again=False, at=0, name="b")
    stream.teardown()
