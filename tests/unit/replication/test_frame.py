"""Frames survive the way there and back; what is broken is refused by reason."""

from dataclasses import replace

import msgpack
import pytest
from syncd.errors import FrameError
from syncd.flows.digest import Digest
from syncd.replication.frame import (
    CHECK_BYTES,
    CONTENT_LIMIT,
    HELLO,
    ITEM_LIMIT,
    Coder,
    Data,
    envelope_bytes,
)
from syncd.replication.hello import MAJOR, Ack, Hello, Service

from tests.unit.replication.talk import flow_body, flow_key


def flat(count: int) -> list[bytes]:
    return [x for n in range(count) for x in (flow_key(n), flow_body(n))]


def test_data_comes_back_as_it_was_packed() -> None:
    data = Data(3, 2, flat(5), [flow_key(9)], [b"keykey", b"body"], [b"gone"])
    data.proof = 7, Digest().packed
    data.inventory = 5, 1 << 31, bytes(range(16))
    frame = Coder().unpack(Coder().wrap("fw1", 11, 12, Coder().pack_data(data)))
    assert (frame.sender, frame.epoch, frame.number) == ("fw1", 11, 12)
    assert frame.content == data


def test_hello_comes_back_as_it_was_packed() -> None:
    ack = Ack("fw2", 5, 100, ((3, 3), (7, 9), (98, 99)), -1, 4, 2, primary=True)
    ack = replace(ack, marker=3, verdict=2, buckets=(1 << 64) - 1, asks=(7, 1 << 31))
    hello = Hello(
        role="primary",
        claim=3,
        owner=True,
        floor=9,
        reply=True,
        flows=10,
        expectations=2,
        acks=(ack,),
        services=(Service("fw2", 5, 1, 2),),
        compare=8,
    )
    assert Coder().content(Coder().pack_hello(hello)) == hello


def test_thirty_flows_take_less_than_thirty_bytes_each() -> None:
    payload = Coder().pack_data(Data(flows=flat(30)))
    datagram = Coder().wrap("fw1", 1 << 60, 1000, payload)
    assert len(datagram) / 30 < 30


@pytest.mark.parametrize("name", ["a", "fw1", "n" * 64, "\N{SNOWMAN}" * 64])
def test_an_envelope_adds_no_more_than_it_says(name: str) -> None:
    coder = Coder()
    payload = coder.pack_data(Data(flows=flat(30)))
    datagram = coder.wrap(name, (1 << 63) - 1, (1 << 63) - 1, payload)
    assert len(datagram) - len(payload) <= envelope_bytes(name) + CHECK_BYTES


@pytest.mark.parametrize(
    "content", [Hello(acks=(Ack("a", 5, 6),)), Data(flows=flat(30))]
)
def test_a_plain_frame_that_was_damaged_is_refused(content: Hello | Data) -> None:
    coder = Coder()
    if isinstance(content, Hello):
        payload = coder.pack_hello(content)
    else:
        payload = coder.pack_data(content)
    datagram = coder.wrap("fw1", 7, 8, payload)
    assert coder.unpack(datagram).content == content
    taken = 0
    for bit in range(8 * len(datagram)):
        damaged = bytearray(datagram)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            frame = coder.unpack(bytes(damaged))
        except FrameError:
            continue
        taken += 1  # the mark of the check itself
        assert (frame.sender, frame.epoch, frame.number) == ("fw1", 7, 8)
        assert frame.content == content
    assert taken <= 8


def test_a_plain_frame_without_a_check_is_taken() -> None:
    coder = Coder()
    payload = coder.pack_data(Data(flows=flat(3)))
    datagram = msgpack.packb((MAJOR, "fw1", 7, 8, payload))
    assert coder.unpack(datagram).content == Data(flows=flat(3))


def test_unknown_fields_behind_the_known_ones_are_skipped() -> None:
    payload = msgpack.packb((1, 0, 0, [], [], [], [], 0, [], [], "later", [1, 2]))
    datagram = msgpack.packb((MAJOR, "x", 1, 2, b"\0" + payload, "later"))
    assert Coder().unpack(datagram).content == Data()
    payload = msgpack.packb((HELLO, {"role": "primary", "later": {"x": 1}}, 5))
    content = Coder().unpack(msgpack.packb((MAJOR, "x", 1, 2, b"\0" + payload))).content
    assert isinstance(content, Hello)
    assert content.role == "primary"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02abc",
        b"\x01not zstandard",
        b"\0" + msgpack.packb(7),
        b"\0" + msgpack.packb([]),
        b"\0" + msgpack.packb(["9"]),
        b"\0" + msgpack.packb([1, 0, 0]),
        b"\0" + msgpack.packb((1, -1, 0, [], [], [], [], 0)),
        b"\0" + msgpack.packb((1, 0, 0, [b"odd!"], [], [], [], 0)),
        b"\0" + msgpack.packb((1, 0, 0, ["text", b"body"], [], [], [], 0)),
        b"\0" + msgpack.packb((1, 0, 0, [b"k", b"body"], [], [], [], 0)),
        b"\0" + msgpack.packb((1, 0, 0, [], [bytes(ITEM_LIMIT + 1)], [], [], 0)),
        b"\0" + msgpack.packb((0, [])),
        b"\0" + msgpack.packb((0, {"acks": 1})),
        b"\0" + msgpack.packb((0, {"acks": [["x", 1, 5, [9, 9], 0, 0, 0, 0, 0, 0]]})),
        b"\0" + msgpack.packb((0, {"services": [["x"]]})),
        b"\0" + msgpack.packb((0, {"acks": [["x", *[0] * 2, [], *[0] * 6, "x", []]]})),
        b"\0" + msgpack.packb((0, {"acks": [["x", *[0] * 2, [], *[0] * 7, [-1]]]})),
        b"\0" + msgpack.packb((1, 0, 0, [], [], [], [], 0, [1, b"short"])),
        b"\0" + msgpack.packb((1, 0, 0, [], [], [], [], 0, [], [0, 1, b"odd"])),
        b"\0" + msgpack.packb((0, {"role": "a\nb"})),
        b"\0" + msgpack.packb((0, {"claim": -4})),
        b"\0" + msgpack.packb((0, {1: 2, "version": 3})),
        b"\0" + b"\x91" * 4000,
    ],
)
def test_a_broken_payload_is_malformed(payload: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        Coder().unpack(msgpack.packb((MAJOR, "x", 1, 2, payload)))
    assert caught.value.reason == "malformed"


def test_a_payload_that_would_grow_beyond_the_limit_is_refused() -> None:
    bomb = Coder()._zip.compress(bytes(CONTENT_LIMIT + 1))
    with pytest.raises(FrameError, match="no fair size"):
        Coder().unpack(msgpack.packb((MAJOR, "x", 1, 2, b"\x01" + bomb)))


@pytest.mark.parametrize(
    "envelope",
    [
        (MAJOR, "", 1, 2, b""),
        (MAJOR, "n" * 65, 1, 2, b""),
        (MAJOR, "a\x00b", 1, 2, b""),
        (MAJOR, b"x", 1, 2, b""),
        (MAJOR, "x", -1, 2, b""),
        (MAJOR, "x", True, 2, b""),
        (MAJOR, "x", 1, 1 << 63, b""),
        (MAJOR, "x", 1, 2, "text"),
        (MAJOR, "x", 1),
        ("1", "x", 1, 2, b""),
    ],
)
def test_a_broken_envelope_is_malformed(envelope: tuple[object, ...]) -> None:
    with pytest.raises(FrameError) as caught:
        Coder().unpack(msgpack.packb(envelope))
    assert caught.value.reason == "malformed"
