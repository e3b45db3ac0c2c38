"""What ended here: a copy of a peer that lives, nothing of one that is dead."""

from syncd.replication.endings import LEFT_S, Endings
from syncd.replication.peer import Peer, PeerState

from tests.unit.replication.talk import flow_body, flow_key

KEY = flow_key(1)


def teller(state: PeerState, heard_at: float) -> tuple[Peer, Endings]:
    peer = Peer("a", state=state, heard_at=heard_at)
    peer.flows.put([KEY, flow_body(1)], 0.0)
    return peer, Endings({"a": peer})


def test_who_lives_on_and_tells_it_still_is_believed() -> None:
    peer, endings = teller(PeerState.IN_STEP, 10.0)
    assert endings.look([KEY], 10.0) == []
    assert endings.awaits(KEY)
    peer.heard_at = 11.5
    assert endings.look([], 10.0 + LEFT_S) == [KEY]
    assert not endings.awaits(KEY)
    assert KEY in peer.flows.bodies


def test_of_who_is_silent_and_then_lost_it_has_ended() -> None:
    peer, endings = teller(PeerState.IN_STEP, 9.5)
    assert endings.look([KEY], 10.0) == endings.look([], 12.0) == []
    assert KEY in peer.flows.bodies  # it may be heard yet
    peer.state = PeerState.LOST
    assert endings.look([], 13.0) == []
    assert KEY not in peer.flows.bodies


def test_a_promotion_waits_for_nobody() -> None:
    peer, endings = teller(PeerState.IN_STEP, 10.0)
    assert endings.look([KEY], 10.0) == []
    assert endings.hurry([]) == [KEY]
    peer.state = PeerState.LOST
    assert endings.hurry([KEY]) == []
    assert not peer.flows.bodies
