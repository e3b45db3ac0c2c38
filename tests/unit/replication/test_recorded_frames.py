"""Frames of every version of this major are understood as they were meant."""

import json
from dataclasses import asdict

import msgpack
import pytest
from syncd.errors import FrameError
from syncd.replication.frame import Coder, Data
from syncd.replication.hello import Hello
from syncd.replication.seal import ENFORCE, Sealer, Security

from tests.unit.replication.recorded_frames import (
    SEALED,
    VERSIONS,
    RecordedFrame,
    digest,
    recorded_frames,
    recorded_keys,
)

# What a version said that no later one asks for: comparisons of 1.0.
RETIRED = ("marker", "digest")


def says(newer: object, older: object) -> bool:
    """Does the newer reading hold all of the older one? It may know more fields."""
    if isinstance(older, dict):
        return isinstance(newer, dict) and all(
            key in newer and says(newer[key], value)
            for key, value in older.items()
            if key in newer or key not in RETIRED
        )
    if isinstance(older, list):
        return (
            isinstance(newer, list)
            and len(newer) >= len(older)
            and all(map(says, newer, older))
        )
    return newer == older


def assert_as_meant(content: object, recorded: RecordedFrame) -> None:
    """Does this version read in it what the one that sent it wrote?"""
    place = f"{recorded.version} {recorded.session} {recorded.n}"
    if recorded.hello is not None:
        assert isinstance(content, Hello), place
        assert says(
            json.loads(json.dumps(asdict(content), default=bytes.hex)), recorded.hello
        ), place
        return
    assert isinstance(content, Data), place
    assert recorded.data is not None, place
    for name, value in recorded.data.items():
        if name in RETIRED:
            continue
        found = getattr(content, name)
        if isinstance(value, int):
            assert found == value, place
        else:
            assert [len(found), digest(found)] == value, place


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_frame_is_understood_as_it_was_meant(version: str) -> None:
    coder = Coder()
    for recorded in recorded_frames(version):
        frame = coder.unpack(recorded.datagram)
        assert frame.sender == recorded.sender
        assert (frame.epoch, frame.number) == (recorded.epoch, recorded.number)
        assert_as_meant(frame.content, recorded)


def sealer_of(version: str, node: str = "fw9", epoch: int = 1, at: int = 0) -> Sealer:
    """Opens what was recorded; seals with the key at that place of the file."""
    ring = recorded_keys(version).keys
    secrets = {key.id: key.secret for key in ring}
    return Sealer(node, epoch, Security(ENFORCE, secrets, ring[at].id))


@pytest.mark.parametrize("version", SEALED)
def test_every_recorded_sealed_frame_is_opened_and_understood(version: str) -> None:
    coder, sealer = Coder(), sealer_of(version)
    used = set()
    for recorded in recorded_frames(version):
        envelope = coder.unwrap(recorded.datagram)
        assert envelope.sender == recorded.sender
        assert (envelope.epoch, envelope.number) == (recorded.epoch, recorded.number)
        payload = sealer.open(envelope, recorded.datagram)
        assert_as_meant(coder.content(payload), recorded)
        used.add(sealer.key_of(envelope.sender, envelope.epoch))
    assert used == {key.id for key in recorded_keys(version).keys}


@pytest.mark.parametrize("version", SEALED)
def test_a_recorded_sealed_frame_would_be_sealed_to_the_same_bytes_today(
    version: str,
) -> None:
    coder, sealer = Coder(), sealer_of(version)
    for recorded in recorded_frames(version):
        envelope = coder.unwrap(recorded.datagram)
        payload = sealer.open(envelope, recorded.datagram)
        key = {"fw1": 0, "fw2": 1}[recorded.sender]
        again = sealer_of(version, recorded.sender, recorded.epoch, key)
        place = envelope.payload[5]
        assert again.seal(place, recorded.number, payload) == recorded.datagram


@pytest.mark.parametrize("version", SEALED)
def test_a_recorded_sealed_frame_with_one_bit_changed_is_refused(version: str) -> None:
    coder = Coder()
    for at, recorded in enumerate(recorded_frames(version)):
        altered = bytearray(recorded.datagram)
        altered[-1 - at % 40] ^= 1 << at % 8
        datagram = bytes(altered)
        with pytest.raises(FrameError):
            sealer_of(version).open(coder.unwrap(datagram), datagram)


def test_the_recorded_sessions_of_1_0_hold_what_they_promise() -> None:
    frames = recorded_frames("1.0")
    assert {frame.session for frame in frames} == {"two-nodes", "three-nodes"}
    codecs = {bytes(msgpack.unpackb(frame.datagram)[4])[0] for frame in frames}
    assert codecs == {0, 1}
    for name in ("flows", "flow_ends", "expectations", "expectation_ends"):
        assert any(_count(frame, name) for frame in frames), name
    for name in ("floor", "resync", "marker"):
        assert any(frame.data and frame.data[name] for frame in frames), name
    acks = [ack for frame in frames for ack in _acks(frame)]
    assert any(ack["lost"] for ack in acks)
    assert {-1} < {ack["wants"] for ack in acks}
    assert {ack["verdict"] for ack in acks} >= {0, 1}
    assert any(ack["primary"] for ack in acks)


def _count(frame: RecordedFrame, name: str) -> object:
    value = frame.data[name] if frame.data else [0]
    assert isinstance(value, list)
    return value[0]


def _acks(frame: RecordedFrame) -> list[dict[str, object]]:
    acks = frame.hello["acks"] if frame.hello else []
    assert isinstance(acks, list)
    return acks
