"""Who becomes a peer, who is refused, and who is forgotten."""

from syncd.replication.engine import ReplicationEngine
from syncd.replication.frame import Coder
from syncd.replication.hello import Hello
from syncd.replication.peer import PeerState
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put

CODER = Coder()


def hello(name: str, epoch: int, number: int) -> bytes:
    return CODER.wrap(name, epoch, number, CODER.pack_hello(Hello()))


def lines(engine: ReplicationEngine) -> list[str]:
    return [text for _, text in engine.take_messages()]


class Twins(Talk):
    """Two nodes of one name beside a third one; each has its own source."""

    def __init__(self) -> None:
        super().__init__("fw1", "fw2")
        put(self.engines["fw1"].own, 1, 2)
        self.run(1)
        self.twin = self.start("copy", epoch=500)
        self.twin.node = self.twin.agreement.node = "fw1"

    def turn(self) -> None:
        for source, engine in list(self.engines.items()):
            engine.tick(self.now)
            for _, datagram in engine.send(self.now):
                for other, receiver in list(self.engines.items()):
                    if other != source:
                        receiver.receive(datagram, 0, source, self.now)


def test_of_two_nodes_with_one_name_the_first_stays_and_all_say_so() -> None:
    talk = Twins()
    put(talk.twin.own, 7, 8)
    talk.run(6)
    third = talk.engines["fw2"]
    assert third.peers["fw1"].state is PeerState.IN_STEP
    assert talk.copy("fw2", "fw1") == talk.own("fw1")
    assert third.peers["fw1"].rival_source == "copy"
    for engine in (talk.engines["fw1"], talk.twin):
        said = [text for text in lines(engine) if "calls itself fw1 too" in text]
        assert len(said) == 1, said
        assert engine.agreement.membership.twin_source
        assert engine.agreement.membership.conflicts > 1
    assert len([text for text in lines(third) if "two nodes call" in text]) == 1
    assert talk.engines["fw1"].ready
    assert not talk.twin.ready


def test_the_second_of_two_nodes_with_one_name_is_taken_once_the_first_is_gone() -> (
    None
):
    talk = Twins()
    put(talk.twin.own, 7, 8)
    talk.run(4)
    del talk.engines["fw1"]
    talk.run(6)
    assert talk.copy("fw2", "fw1") == talk.own("copy")
    assert any("no other node calls itself" in text for text in lines(talk.twin))
    assert talk.twin.ready
    assert talk.engines["fw2"].peers["fw1"].rival_source == ""


def test_a_node_that_moved_to_another_address_is_taken_after_a_moment() -> None:
    talk = Talk("fw1", "fw2")
    put(talk.engines["fw1"].own, 1)
    talk.run(1)
    del talk.engines["fw1"]
    moved = talk.start("moved", epoch=500)
    moved.node = moved.agreement.node = "fw1"
    put(moved.own, 3)
    talk.run(3)
    assert set(talk.copy("fw2", "fw1")) == {flow_key(3)}


def test_one_old_frame_of_our_own_is_no_second_node() -> None:
    talk = Talk("a")
    engine = talk.engines["a"]
    for step in range(40):
        assert engine.receive(hello("a", 999, 5), 0, "x", 1.0 + step / 10) == "name"
    assert not engine.agreement.membership.twin_source
    assert not lines(engine)


def test_a_flood_of_names_keeps_nobody_out_and_costs_no_memory() -> None:
    talk = Talk("a", "b")
    talk.run(1)
    a = talk.engines["a"]
    for number in range(5000):
        a.receive(hello(f"x{number}", 1, 1), 0, "flood", talk.now)
    assert len(a.peers) <= 1 + 16
    assert a.agreement.membership.refused >= 4900
    assert len([text for text in lines(a) if "peer_limit" in text]) == 1
    put(talk.engines["b"].own, 1)
    talk.run(4)
    assert talk.copy("a", "b") == talk.own("b")
    assert list(a.peers) == ["b"]
    put(talk.start("c").own, 2)
    talk.run(2)
    assert talk.copy("a", "c") == talk.own("c")


def test_more_nodes_than_the_limit_are_refused_and_said_once() -> None:
    talk = Talk("a", "b", "c", settings=Settings(peer_limit=1))
    talk.mixed = True
    talk.run(2)
    for engine in talk.engines.values():
        members = [peer for peer in engine.peers.values() if peer.inbox.epoch]
        assert len(members) == 1
    assert any("peer_limit = 1" in text for text in lines(talk.engines["a"]))


def test_a_node_that_left_for_good_is_forgotten() -> None:
    talk = Talk("a", "b", settings=Settings(forget_after_s=60))
    put(talk.engines["b"].own, 1)
    talk.engines["b"].promote(talk.now)
    talk.run(1)
    talk.engines["b"].demote(talk.now)
    talk.engines["a"].promote(talk.now)  # took the traffic over
    talk.run(1)
    del talk.engines["b"]
    talk.run(50, 0.1)
    assert len(talk.copy("a", "b")) == 1
    talk.run(25, 0.1)
    assert not talk.engines["a"].peers
    assert talk.engines["a"].agreement.membership.forgotten == 1
    assert any("b is forgotten" in text for text in lines(talk.engines["a"]))


def test_the_only_holder_of_flows_that_nobody_took_over_is_not_forgotten() -> None:
    talk = Talk("a", "b", settings=Settings(forget_after_s=60))
    put(talk.engines["b"].own, 1)
    talk.run(1)
    del talk.engines["b"]
    talk.run(100, 0.1)
    assert len(talk.copy("a", "b")) == 1
    put(talk.engines["a"].own, 1)  # the flow moved here
    talk.run(20, 0.1)
    assert not talk.engines["a"].peers


def test_who_was_overtaken_by_a_node_that_is_forgotten_stays_overtaken() -> None:
    talk = Talk("a", "b", settings=Settings(forget_after_s=60))
    a, b = talk.engines["a"], talk.engines["b"]
    a.promote(talk.now)
    talk.run(1)
    a.demote(talk.now)
    b.promote(talk.now)
    talk.run(1)
    del talk.engines["b"]
    talk.run(75, 0.1)
    assert not a.peers
    assert not a.roles.owner(())
    a.promote(talk.now)
    assert a.roles.claim > b.roles.claim
