"""What is read once for all nodes is what each of them would read alone."""

import pytest
from syncd.errors import FrameError
from syncd.replication.frame import Coder, Data
from syncd.replication.hello import Ack, Hello, Way

from tests.sim.reading import SharedCoder
from tests.sim.watch import Summed

KEY, BODY = b"key of a flow", b"body of a flow"


def test_every_reader_gets_what_the_coder_says() -> None:
    coder, shared = Coder(), SharedCoder()
    hello = Hello(acks=(Ack("fw2", 7, 8),), way=Way(0, 1400))
    data = Data(floor=3, flows=[KEY, BODY], flow_ends=[KEY], proof=None)
    for payload in (coder.pack_hello(hello), coder.pack_data(data)):
        datagram = coder.wrap("fw1", 1, 2, payload)
        for _ in range(3):
            assert shared.unwrap(datagram) == coder.unwrap(datagram)
            assert shared.content(payload) == coder.content(payload)


def test_one_reader_changes_nothing_for_the_next() -> None:
    shared = SharedCoder()
    payload = shared.pack_data(Data(flows=[KEY, BODY]))
    datagram = shared.wrap("fw1", 1, 2, payload)
    for _ in range(3):
        shared.unwrap(datagram)
        content = shared.content(payload)
        assert isinstance(content, Data)
        assert content.flows == [KEY, BODY]
        content.flows.clear()


def test_another_payload_under_the_same_envelope_is_read_anew() -> None:
    shared = SharedCoder()
    payloads = [shared.pack_hello(Hello(claim=claim)) for claim in (1, 2)]
    datagram = shared.wrap("fw1", 1, 2, payloads[0])
    for payload, claim in zip(payloads * 2, (1, 2, 1, 2), strict=True):
        shared.unwrap(datagram)
        content = shared.content(payload)
        assert isinstance(content, Hello)
        assert content.claim == claim


def test_what_is_refused_is_refused_each_time() -> None:
    shared = SharedCoder()
    payload = shared.pack_hello(Hello())
    datagram = shared.wrap("fw1", 1, 2, payload)
    for _ in range(2):
        shared.unwrap(datagram)
        assert shared.content(payload) == Hello()
        with pytest.raises(FrameError):
            shared.unwrap(datagram[:-9])
        with pytest.raises(FrameError):
            shared.content(payload[:-1])


def test_hellos_that_differ_are_packed_apart() -> None:
    coder, shared = Coder(), SharedCoder()
    hellos = [
        Hello(way=Way(place), claim=claim) for place in (0, 1) for claim in (1, 2)
    ]
    for hello in hellos * 3:
        assert shared.pack_hello(hello) == coder.pack_hello(hello)


def test_a_digest_is_summed_up_again_when_it_or_its_tables_have_moved() -> None:
    sums, flows, others = [1, 2], {KEY: BODY}, dict[bytes, bytes]()
    summed = Summed(sums, flows, others)
    assert summed.still(sums, flows, others)
    flows[KEY] = BODY + b"!"
    assert not summed.still(sums, flows, others)
    flows[KEY] = BODY
    others[KEY] = BODY
    assert not summed.still(sums, flows, others)
    del others[KEY]
    sums[1] += 1
    assert not summed.still(sums, flows, others)
