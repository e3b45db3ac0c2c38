"""A slow peer, and a peer with more flows than there is room for."""

from syncd.replication.peer import PeerState
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put


class SlowTalk(Talk):
    """What node c receives comes in portions, as if its link were thin."""

    portion = 1  # datagrams per turn; 0 = no limit
    queue: list[tuple[bytes, str]]

    def turn(self) -> None:
        for name, engine in list(self.engines.items()):
            engine.tick(self.now)
            for _, datagram in engine.send(self.now):
                for other, receiver in list(self.engines.items()):
                    if other == "c" and name == "a":
                        self.queue.append((datagram, name))
                    elif other != name:
                        receiver.receive(datagram, 0, name, self.now)
        portion = self.queue[: self.portion or None]
        del self.queue[: self.portion or None]
        for datagram, name in portion:
            self.engines["c"].receive(datagram, 0, name, self.now)


def _slow_talk() -> SlowTalk:
    settings = Settings(window_frames=64, ack_frames=8, frame_bytes=500)
    talk = SlowTalk("a", "b", "c", settings=settings)
    talk.queue = []
    talk.portion = 0
    talk.run(1)
    talk.portion = 1
    return talk


def _load(talk: SlowTalk, seconds: float) -> None:
    for step in range(round(seconds * 20)):
        put(talk.engines["a"].own, *range(900), seconds=step % 50 + 1)
        talk.run(0.05)


def test_a_slow_peer_falls_back_and_does_not_slow_the_others() -> None:
    talk = _slow_talk()
    _load(talk, 4)
    a = talk.engines["a"]
    assert a.peers["c"].suspensions > 0
    assert a.peers["c"].state is PeerState.SYNCING
    assert talk.copy("b", "a") == talk.own("a")
    assert a.peers["b"].suspensions == 0
    # It knows that it is not told everything: neither side calls it in step.
    assert talk.engines["c"].peers["a"].state is PeerState.SYNCING
    assert not talk.engines["c"].ready
    said = [text for _, text in a.take_messages() if "too slow" in text]
    assert len(said) == 1


def test_a_slow_peer_is_in_step_again_when_it_can_follow() -> None:
    talk = _slow_talk()
    _load(talk, 4)
    talk.portion = 0
    talk.run(8)
    assert talk.copy("c", "a") == talk.own("a")
    assert talk.engines["a"].peers["c"].state is PeerState.IN_STEP
    assert talk.engines["c"].ready
    assert talk.engines["a"].peers["c"].patience_s == 0


def test_each_retry_of_a_slow_peer_costs_the_others_little() -> None:
    """At most an eighth of the time that it was out, not `slow_peer_s` each time."""
    talk = _slow_talk()
    a, waited = talk.engines["a"], 0.0
    while a.peers["c"].suspensions == 0:
        _load(talk, 0.05)
    begin = talk.now
    while talk.now < begin + 16:
        put(a.own, *range(900), seconds=int(talk.now * 20) % 50 + 1)
        for _ in range(5):
            talk.run(0.01)
            waited += 0.01 * (not a.outbox.window_open)
    assert a.peers["c"].suspensions >= 3
    assert waited < 16 / 8 + talk.settings.slow_peer_s


def test_a_peer_that_is_alone_is_never_too_slow() -> None:
    talk = _slow_talk()
    del talk.engines["b"]
    talk.run(4)
    _load(talk, 3)
    assert talk.engines["a"].peers["c"].suspensions == 0


def test_a_table_at_its_limit_is_not_ready_and_recovers() -> None:
    talk = Talk("a", "b", settings=Settings(peer_flows_limit=100))
    put(talk.engines["a"].own, *range(150))
    talk.run(3)
    b = talk.engines["b"]
    peer = b.peers["a"]
    assert len(talk.copy("b", "a")) == 100
    assert peer.overflow >= 50
    assert (b.ready, peer.verified, peer.full) == (False, False, True)
    said = [text for _, text in b.take_messages() if "peer_flows_limit" in text]
    assert len(said) == 1
    put(talk.engines["a"].own, 7, seconds=33)  # what is there goes on
    for number in range(20, 120):
        talk.engines["a"].own.flows.end(flow_key(number))
    talk.run(3)
    assert talk.copy("b", "a") == talk.own("a")
    assert (b.ready, peer.verified, peer.full) == (True, True, False)
