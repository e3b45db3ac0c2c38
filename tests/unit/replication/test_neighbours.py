"""Nodes of other minor versions: 1.0 as it was, and a later one that says more."""

import msgpack
import pytest
from syncd.replication.engine import ReplicationEngine
from syncd.replication.frame import Coder
from syncd.replication.hello import MINOR, Hello

from tests.frozen.neighbour import Neighbour
from tests.unit.replication.talk import Talk, flow_body, flow_key, put

Engine = ReplicationEngine | Neighbour


class MixedTalk(Talk):
    """Present nodes and nodes of 1.0; losses by `deliver`."""

    def __init__(self, *names: str, old: tuple[str, ...] = ()) -> None:
        super().__init__(*names)
        self.old: dict[str, Neighbour] = {}
        for number, name in enumerate(old, 100):
            self.old[name] = self.start_old(name, number)

    def start_old(self, name: str, epoch: int) -> Neighbour:
        engine = Neighbour(name, epoch, self.settings, self.now)
        engine.begin_dump(self.now)
        engine.end_dump(self.now)
        return engine

    def put_old(self, name: str, *numbers: int, seconds: int = 60) -> None:
        table = self.old[name].own.flows
        for number in numbers:
            table.put(flow_key(number), flow_body(number, seconds), b"\0\0\0\1", 1 << 7)

    def turn(self) -> None:
        sent: list[tuple[str, bytes]] = []
        for name, engine in self.engines.items():
            engine.tick(self.now)
            sent += [(name, datagram) for _, datagram in engine.send(self.now)]
        for name, old in self.old.items():
            old.tick(self.now)
            sent += [(name, datagram) for datagram in old.send(self.now)]
        for name, datagram in sent:
            for other, receiver in self.engines.items():
                if other != name and self.deliver(name, other, datagram):
                    assert receiver.receive(datagram, 0, name, self.now) is None
            for other, old in self.old.items():
                if other != name and self.deliver(name, other, datagram):
                    assert old.hear(datagram, name, self.now) is None

    def assert_equal(self) -> None:
        for name, engine in self.engines.items():
            for peer in engine.peers.values():
                assert peer.state.value == "in-step", (name, peer.name)
                origin = self.old.get(peer.name) or self.engines[peer.name]
                assert peer.flows.bodies == origin.own.flows.bodies
        for name, old in self.old.items():
            for there in old.peers.values():
                assert there.state.value == "in-step", (name, there.name)
                source = self.old.get(there.name) or self.engines[there.name]
                assert there.flows.bodies == source.own.flows.bodies


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_neighbour_of_1_0_is_kept_equal_in_both_directions(
    names: tuple[str, ...],
) -> None:
    talk = MixedTalk(*names, old=("z",))
    put(talk.engines["a"].own, *range(300))
    talk.put_old("z", *range(400, 600))
    talk.run(3)
    talk.assert_equal()
    put(talk.engines["a"].own, 1, 2, seconds=30)
    talk.engines["a"].own.flows.end(flow_key(3))
    talk.put_old("z", 401, seconds=7)
    talk.old["z"].own.flows.end(flow_key(402))
    talk.run(1)
    talk.assert_equal()


def test_a_neighbour_of_1_0_that_loses_frames_is_told_again() -> None:
    talk = MixedTalk("a", "b", old=("z",))
    turns = [0]

    def lossy(_sender: str, _receiver: str, _datagram: bytes) -> bool:
        turns[0] += 1
        return turns[0] % 5 != 0

    talk.deliver = lossy
    for step in range(40):
        put(talk.engines["a"].own, *range(step * 20, step * 20 + 40), seconds=step + 1)
        talk.put_old("z", *range(2000 + step * 20, 2040 + step * 20), seconds=step + 1)
        if step == 20:
            talk.old["z"] = talk.start_old("z", 555)
        talk.run(0.1)
    talk.deliver = lambda _sender, _receiver, _datagram: True
    talk.run(5)
    talk.assert_equal()


def test_a_neighbour_of_1_0_causes_no_endless_resyncs_nor_differences() -> None:
    talk = MixedTalk("a", old=("z",))
    put(talk.engines["a"].own, *range(50))
    talk.put_old("z", *range(100, 150))
    talk.run(3)
    talk.engines["a"].take_messages()
    talk.old["z"].take_messages()
    passes = talk.engines["a"].agreement._pass_count
    talk.old["z"].verify(talk.now)
    talk.engines["a"].verify(talk.now)
    talk.run(30, 0.05)
    talk.assert_equal()
    said = talk.engines["a"].take_messages() + talk.old["z"].take_messages()
    assert not said
    assert talk.engines["a"].agreement._pass_count == passes
    # 1.0 has no digests that are kept: nothing is proven, and nobody says it were.
    assert not talk.engines["a"].peers["z"].verified
    assert talk.engines["a"].ready


def later(datagram: bytes) -> bytes:
    """What a later minor version may add: fields, tails, capabilities, kinds."""
    envelope = msgpack.unpackb(datagram)
    content = msgpack.unpackb(_opened(envelope[4]))
    if content[0] == 0:
        fields = content[1]
        fields["version"] = [1, 9, 5]
        fields["capabilities"] = [*fields["capabilities"], "telepathy"]
        fields["later"] = {"x": [1, 2.5, None, b"y"]}
        for ack in fields["acks"]:
            ack += ["more", {"z": 1}]
        for service in fields["services"]:
            service.append([1, 2])
        content.append("tail")
    elif content[0] == 1:
        content += [*[[], []][: 10 - len(content)], b"later", {"k": 1}]
    return bytes(
        msgpack.packb([*envelope[:4], b"\0" + msgpack.packb(content), "later"])
    )


def _opened(payload: bytes) -> bytes:
    return (
        payload[1:] if payload[:1] == b"\0" else Coder()._decompress(bytes(payload[1:]))
    )


def test_a_neighbour_of_a_later_minor_version_is_understood() -> None:
    talk = Talk("a", "b")
    put(talk.engines["a"].own, *range(100))
    put(talk.engines["b"].own, *range(200, 250))
    strange = [0]

    def deliver(sender: str, receiver: str, datagram: bytes) -> bool:
        if sender != "b":
            return True
        engine = talk.engines[receiver]
        strange[0] += 1
        if strange[0] % 7 == 0:  # a kind of content that is not known here
            head = msgpack.unpackb(datagram)[:4]
            odd = msgpack.packb([*head, b"\0" + msgpack.packb([77, {"n": 1}])])
            assert engine.receive(bytes(odd), 0, sender, talk.now) is None
            return False
        assert engine.receive(later(datagram), 0, sender, talk.now) is None
        return False

    talk.deliver = deliver
    talk.run(4)
    put(talk.engines["b"].own, 200, seconds=3)
    talk.engines["b"].own.flows.end(flow_key(201))
    talk.run(4)
    assert talk.copy("a", "b") == talk.own("b")
    assert talk.copy("b", "a") == talk.own("a")
    peer = talk.engines["a"].peers["b"]
    assert peer.state.value == "in-step"
    assert peer.version == (1, 9)
    assert "telepathy" in peer.capabilities


def test_another_major_version_is_refused_with_a_clear_line() -> None:
    talk = Talk("a")
    datagram = msgpack.packb([2, "x", 1, 1, b""])
    assert talk.engines["a"].receive(bytes(datagram), 0, "10.0.0.9", 1.0) == "version"
    ((_, text),) = talk.engines["a"].take_messages()
    assert "speaks protocol version 2, this node speaks 1" in text


def test_hello_tells_this_minor_version() -> None:
    assert Hello().version == (1, MINOR)
    assert MINOR >= 1
