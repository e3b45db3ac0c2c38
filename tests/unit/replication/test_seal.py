"""Sealed frames: opened with the key, refused by reason without, nothing kept then."""

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from syncd.errors import FrameError
from syncd.replication import seal
from syncd.replication.frame import Coder, Data, envelope_bytes
from syncd.replication.hello import MAJOR
from syncd.replication.seal import SEAL_BYTES, Sealer, Security, Window

from tests.unit.replication.talk import flow_body, flow_key

ONE, TWO = b"\x11" * 4, b"\x22" * 4
SECRETS = {ONE: bytes(range(32)), TWO: bytes(range(32, 64))}
CODER = Coder()


def security(mode: str = "enforce", sending: bytes = ONE, *ids: bytes) -> Security:
    return Security(mode, {key: SECRETS[key] for key in ids or (sending,)}, sending)


def sealer(name: str = "b", epoch: int = 2, told: Security | None = None) -> Sealer:
    return Sealer(name, epoch, told or security())


def opened(by: Sealer, datagram: bytes) -> bytes:
    return by.open(CODER.unwrap(datagram), datagram)


def refusal(by: Sealer, datagram: bytes) -> str:
    with pytest.raises(FrameError) as caught:
        opened(by, datagram)
    return caught.value.reason


PAYLOAD = CODER.pack_data(Data(flows=[flow_key(1), flow_body(1)]))


def test_a_sealed_frame_is_opened_by_who_has_the_key_and_shows_nothing() -> None:
    datagram = sealer("a", 1).seal(0, 7, PAYLOAD)
    assert flow_key(1) not in datagram
    assert opened(sealer(), datagram) == PAYLOAD
    envelope = CODER.unwrap(datagram)
    assert (envelope.sender, envelope.epoch, envelope.number) == ("a", 1, 7)


@pytest.mark.parametrize("name", ["a", "fw1", "n" * 64, "\N{SNOWMAN}" * 64])
def test_a_seal_adds_no_more_than_it_says(name: str) -> None:
    for payload in (b"\0", PAYLOAD, bytes(60000)):
        datagram = sealer(name, (1 << 62) - 1).seal(255, (1 << 62) - 1, payload)
        assert len(datagram) - len(payload) <= envelope_bytes(name) + SEAL_BYTES


def test_the_bytes_are_those_that_the_drawing_says() -> None:
    datagram = sealer("fw1", 5).seal(3, 9, PAYLOAD)
    major, sender, epoch, number, payload = msgpack.unpackb(datagram)
    assert (major, sender, epoch, number) == (MAJOR, "fw1", 5, 9)
    assert payload[:6] == b"\x02" + ONE + b"\x03"
    key = HKDF(SHA256(), 32, (5).to_bytes(8), b"syncd framefw1").derive(SECRETS[ONE])
    nonce = b"\x03\0\0\0" + (9).to_bytes(8)
    head = datagram[: -len(payload) + 6]
    assert AESGCM(key).decrypt(nonce, payload[6:], head) == PAYLOAD


def test_every_bit_of_a_frame_is_bound() -> None:
    """Whatever bit is turned, nothing is opened and nothing is remembered."""
    datagram = sealer("a", 1).seal(0, 7, PAYLOAD)
    hearing = sealer()
    for place in range(len(datagram)):
        for bit in range(8):
            turned = bytearray(datagram)
            turned[place] ^= 1 << bit
            with pytest.raises(FrameError) as caught:
                opened(hearing, bytes(turned))
            assert caught.value.reason in ("auth", "malformed", "version")
    assert not hearing._streams
    assert opened(hearing, datagram) == PAYLOAD


@pytest.mark.parametrize(
    ("sender", "epoch", "number"), [("c", 1, 7), ("a", 3, 7), ("a", 1, 8)]
)
def test_a_box_does_not_fit_another_envelope(
    sender: str, epoch: int, number: int
) -> None:
    box = CODER.unwrap(sealer("a", 1).seal(0, 7, PAYLOAD)).payload
    assert refusal(sealer(), CODER.wrap(sender, epoch, number, box)) == "auth"


def test_the_place_is_bound() -> None:
    datagram = sealer("a", 1).seal(0, 7, PAYLOAD)
    at = len(datagram) - len(PAYLOAD) - SEAL_BYTES + 5
    assert datagram[at] == 0
    assert refusal(sealer(), datagram[:at] + b"\1" + datagram[at + 1 :]) == "auth"


def test_truncated_and_extended_frames_are_refused() -> None:
    datagram = sealer("a", 1).seal(0, 7, PAYLOAD)
    for length in range(len(datagram)):
        assert refusal(sealer(), datagram[:length]) in ("malformed", "auth")
    assert refusal(sealer(), datagram + b"\0") == "malformed"
    fields = msgpack.packb([*msgpack.unpackb(datagram), "more"])
    assert refusal(sealer(), fields) == "malformed"
    assert refusal(sealer(), CODER.wrap("a", 1, 1, b"\x02" + bytes(20))) == "malformed"


def test_who_has_another_key_is_refused() -> None:
    other = sealer("a", 1, security("enforce", TWO))
    assert refusal(sealer(), other.seal(0, 1, PAYLOAD)) == "auth"
    same_id = sealer("a", 1, Security("enforce", {ONE: SECRETS[TWO]}, ONE))
    assert refusal(sealer(), same_id.seal(0, 1, PAYLOAD)) == "auth"


def test_the_modes_take_what_they_say() -> None:
    plain = CODER.wrap("a", 1, 1, PAYLOAD)
    sealed = sealer("a", 1).seal(0, 2, PAYLOAD)
    assert refusal(sealer(), plain) == "auth"
    assert opened(sealer(told=security("permissive")), plain) == PAYLOAD
    assert opened(sealer(told=security("permissive")), sealed) == PAYLOAD
    assert opened(sealer(told=Security()), plain) == PAYLOAD
    assert refusal(sealer(told=Security()), sealed) == "auth"


def test_a_repeated_frame_is_a_replay_and_a_late_one_is_not() -> None:
    sending, hearing = sealer("a", 1), sealer()
    frames = [sending.seal(0, number, PAYLOAD) for number in range(1, 5)]
    assert opened(hearing, frames[3]) == PAYLOAD
    assert opened(hearing, frames[0]) == PAYLOAD  # late
    assert refusal(hearing, frames[0]) == "replay"
    assert refusal(hearing, frames[3]) == "replay"
    assert opened(hearing, frames[2]) == PAYLOAD


def test_the_same_frame_over_another_place_is_no_replay() -> None:
    sending, hearing = sealer("a", 1), sealer()
    assert opened(hearing, sending.seal(0, 1, PAYLOAD)) == PAYLOAD
    assert opened(hearing, sending.seal(1, 1, PAYLOAD)) == PAYLOAD
    assert refusal(hearing, sending.seal(1, 1, PAYLOAD)) == "replay"


def test_our_own_frame_that_comes_back_is_no_replay() -> None:
    sending = sealer("a", 1)
    datagram = sending.seal(0, 1, PAYLOAD)
    assert opened(sending, datagram) == opened(sending, datagram) == PAYLOAD
    assert not sending._streams


def test_a_key_is_changed_without_a_frame_being_lost() -> None:
    sending, hearing = sealer("a", 1), sealer()
    before = sending.seal(0, 1, PAYLOAD)
    hearing.change(security("enforce", ONE, ONE, TWO))
    sending.change(security("enforce", TWO, ONE, TWO))
    assert opened(hearing, sending.seal(0, 2, PAYLOAD)) == PAYLOAD
    assert hearing.key_of("a", 1) == TWO
    assert opened(hearing, before) == PAYLOAD
    hearing.change(security("enforce", TWO))
    assert refusal(hearing, sealer("a", 1).seal(0, 3, PAYLOAD)) == "auth"
    assert refusal(hearing, sending.seal(0, 2, PAYLOAD)) == "replay"


def test_no_nonce_comes_twice() -> None:
    """Another place, number, epoch or sender: another key stream."""
    frames = {
        CODER.unwrap(sealer(name, epoch).seal(place, number, bytes(64))).payload[6:]
        for name in ("a", "b")
        for epoch in (1, 2)
        for place in (0, 1)
        for number in (1, 2, 256)
    }
    assert len({frame[:16] for frame in frames}) == 24


def test_what_is_kept_of_senders_is_bounded() -> None:
    hearing = sealer()
    for epoch in range(3, 3 + 2 * seal._STREAMS_LIMIT):
        opened(hearing, sealer("a", epoch).seal(0, 1, PAYLOAD))
        opened(hearing, sealer("c", 1).seal(0, epoch, PAYLOAD))  # heard all the time
    assert len(hearing._streams) == seal._STREAMS_LIMIT
    assert refusal(hearing, sealer("c", 1).seal(0, 3, PAYLOAD)) == "replay"


def test_who_fails_leaves_nothing_behind() -> None:
    hearing = sealer()
    for number in range(1, 500):
        forged = CODER.wrap(f"x{number}", number, 1, b"\x02" + ONE + bytes(40))
        assert refusal(hearing, forged) == "auth"
    assert not hearing._streams


def test_a_window_remembers_what_came_and_refuses_what_is_too_old() -> None:
    window = Window()
    assert [window.take(number) for number in (5, 3, 5, 4, 3)] == [1, 1, 0, 1, 0]
    assert window.take(16_000)
    assert not window.take(5)
    assert window.take(6)
    assert window.take(10**12)
    assert window.take(10**12 - 16_000)
    assert not window.take(10**12 - 16_000)
    assert not window.take(10**12 - 17_000)
    assert not window.take(7)


def test_a_window_is_right_about_any_order() -> None:
    window, seen = Window(), set()
    at = 1
    for step in range(20_000):
        at = (at * 48271) % 2147483647
        number = step + at % 5000
        assert window.take(number) is (number not in seen)
        seen.add(number)
