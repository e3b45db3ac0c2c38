"""Peers move by the table, roles follow claims."""

import pytest
from syncd.flows.own import Own
from syncd.replication.peer import TRANSITIONS, Peer, PeerEvent, PeerState
from syncd.replication.roles import BACKUP, PRIMARY, Roles, sources

from tests.unit.replication.talk import flow_key, put


def peer(name: str, claim: int = 0, *, owner: bool = False, epoch: int = 1) -> Peer:
    made = Peer(name, claim=claim, owner=owner)
    made.inbox.open(epoch, 1)
    return made


def test_an_unlisted_transition_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Peer("x").move(PeerEvent.AGREED)


def test_every_state_can_be_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(PeerState)
    assert set(TRANSITIONS.values()) == set(PeerState) - {PeerState.UNKNOWN}


def test_a_promotion_claims_more_than_anybody() -> None:
    roles = Roles()
    roles.promote([peer("b", 4), peer("c", 2)], Own())
    assert (roles.role, roles.claim) == (PRIMARY, 5)
    roles.promote([peer("b", 4)], Own())
    assert roles.claim == 5
    roles.promote([peer("b", 9)], Own())  # somebody took over meanwhile
    assert roles.claim == 10


def test_only_an_owner_holds_ends_back() -> None:
    roles, own = Roles(), Own()
    roles.retire(BACKUP, [], own, 1.0)
    assert not own.flows.holding
    roles.promote([], own)
    put(own, 1)
    roles.retire(BACKUP, [], own, 1.0)
    own.flows.end(flow_key(1))
    assert len(own.flows) == 1
    assert roles.owner([peer("b", 0)])
    assert roles.heard(roles.claim, own) == 0
    assert roles.heard(roles.claim + 1, own) == 1
    assert not roles.owner([peer("b", roles.claim + 1)])


def test_a_promotion_commits_owners_and_those_without_roles() -> None:
    peers = [
        peer("stale", 1),
        peer("owner", 3, owner=True),
        peer("plain", 0),
        peer("second", 2, owner=True),
    ]
    assert [p.name for p in sources(peers)] == ["owner", "second", "plain"]
    peers[1].taken = (1, 3)
    assert [p.name for p in sources(peers)] == ["second", "plain"]
    peers[1].state, peers[1].role = PeerState.IN_STEP, PRIMARY  # its traffic goes on
    assert [p.name for p in sources(peers)] == ["owner", "second", "plain"]
