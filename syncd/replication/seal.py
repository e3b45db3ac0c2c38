"""Sealed frames: without the key nobody can read, change or repeat one.

In: payloads that leave, envelopes that arrived, the cluster's keys. Out: datagrams, and
payloads as their sender made them. The rule of the room: what cannot be opened is
refused with a reason and leaves nothing behind, not even a derived key.

A sealed datagram is an envelope of `frame.py` that ends with this payload:

    codec    1 byte    2, sealed
    key id   4 bytes   which one of the keys
    place    1 byte    of the link at the sender
    box      bytes     AES-256-GCM over a payload that has a codec of its own, then
                       16 bytes of tag
    frame key          HKDF-SHA256(key, salt = epoch in 8 bytes,
                       info = "syncd frame" + sender)
    nonce              place in 1 byte, 3 zeros, number in 8 bytes
    associated data    everything of the datagram that stands before the box

Within an epoch a number is used once per place, and an epoch is 62 random bits: no
nonce comes twice under a frame key, restarts included.

A frame that is genuine and came before over the same place is a replay. What is merely
late is opened, and the inbox counts it. Which life of a sender goes on is not decided
here: `agreement.py` has it prove that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from syncd.errors import FrameError
from syncd.replication.frame import (
    CHECK_BYTES,
    Envelope,
    envelope_head,
    envelope_middle,
)

ENFORCE = "enforce"  # seal, and take nothing else
PERMISSIVE = "permissive"  # take both, seal when everybody heard can open it
OFF = "off"  # take and send what is plain

SEAL_BYTES = 22  # that sealing adds to a payload: codec, key id, place, tag
_HEAD_BYTES = 6
_STREAMS_LIMIT = 128  # lives of senders that replays are known of, 2 KiB per place
_BLOCKS = 2048  # of 8 numbers each, in a window


@dataclass(frozen=True, slots=True)
class Security:
    """What one node was told: the mode, the keys by id, the id to seal with."""

    mode: str = OFF
    keys: Mapping[bytes, bytes] = field(default_factory=dict)
    sending: bytes = b""

    @property
    def ids(self) -> tuple[bytes, ...]:
        """The keys that frames are opened with."""
        return () if self.mode == OFF else tuple(self.keys)


class Window:
    """Which of the latest 16 000 numbers have come; a ring of bits as in RFC 6479."""

    __slots__ = ("_bits", "_block")

    def __init__(self) -> None:
        self._bits = bytearray(_BLOCKS)
        self._block = 0  # the highest one that was reached

    def take(self, number: int) -> bool:
        """Note this number; False when it came before or is too old to tell."""
        block = number >> 3
        if block > self._block:
            if block - self._block >= _BLOCKS:
                self._bits = bytearray(_BLOCKS)
            else:
                for passed in range(self._block + 1, block + 1):
                    self._bits[passed % _BLOCKS] = 0
            self._block = block
        elif self._block - block >= _BLOCKS:
            return False
        bit = 1 << (number & 7)
        if self._bits[block % _BLOCKS] & bit:
            return False
        self._bits[block % _BLOCKS] |= bit
        return True


class _Stream:
    """One life of a sender whose frames were genuine."""

    __slots__ = ("ciphers", "key_id", "windows")

    def __init__(self) -> None:
        self.ciphers: dict[bytes, AESGCM] = {}  # by key id
        self.windows: dict[int, Window] = {}  # by place
        self.key_id = b""  # of its latest frame


class Sealer:
    """Seals the frames of one life of a node, opens those of all others."""

    def __init__(self, node: str, epoch: int, security: Security) -> None:
        self._node = node
        self._epoch = epoch
        self._head = envelope_head(node, epoch)
        self._streams: dict[tuple[str, int], _Stream] = {}  # latest heard last
        self.change(security)

    def change(self, security: Security) -> None:
        """Other keys or another mode from now on."""
        self.security = security
        for stream in self._streams.values():
            stream.ciphers = {
                key_id: cipher
                for key_id, cipher in stream.ciphers.items()
                if key_id in security.keys
            }
        self._cipher: AESGCM | None = None
        if security.mode != OFF:
            secret = security.keys[security.sending]
            self._cipher = AESGCM(_frame_key(secret, self._node, self._epoch))

    @property
    def overhead(self) -> int:
        """Bytes that a payload may grow by."""
        return CHECK_BYTES if self.security.mode == OFF else SEAL_BYTES

    def key_of(self, sender: str, epoch: int) -> bytes:
        """The id of the key that a sender last used; empty if it sends plain."""
        stream = self._streams.get((sender, epoch))
        return b"" if stream is None else stream.key_id

    def seal(self, place: int, number: int, payload: bytes) -> bytes:
        """One sealed datagram for the link at this place."""
        assert self._cipher is not None, "no key to seal with"
        head = (
            self._head
            + envelope_middle(number, len(payload) + SEAL_BYTES)
            + b"\x02"
            + self.security.sending
            + place.to_bytes()
        )
        return head + self._cipher.encrypt(_nonce(place, number), payload, head)

    def open(self, envelope: Envelope, datagram: bytes) -> bytes:
        """The payload of an envelope; FrameError(auth | replay | malformed)."""
        payload, mode = envelope.payload, self.security.mode
        if payload[:1] != b"\x02":
            if mode == ENFORCE:
                raise FrameError(
                    "auth",
                    'a plain frame, while [security] mode is "enforce" here: '
                    "somebody else's, or a node in another mode",
                )
            return payload
        if mode == OFF:
            raise FrameError("auth", 'a sealed frame, while [security] mode is "off"')
        if len(payload) < SEAL_BYTES or not datagram.endswith(payload):
            raise FrameError("malformed", "a sealed frame that ends early or late")
        return self._open_box(envelope, datagram, payload)

    def _open_box(self, envelope: Envelope, datagram: bytes, payload: bytes) -> bytes:
        key_id, place, box = payload[1:5], payload[5], payload[_HEAD_BYTES:]
        secret = self.security.keys.get(key_id)
        if secret is None:
            raise FrameError(
                "auth",
                f"sealed with key {key_id.hex()}, which is not in the key file here",
            )
        life = (envelope.sender, envelope.epoch)
        stream = self._streams.get(life)
        cipher = None if stream is None else stream.ciphers.get(key_id)
        fresh = cipher is None
        if cipher is None:
            cipher = AESGCM(_frame_key(secret, *life))
        try:
            opened = cipher.decrypt(
                _nonce(place, envelope.number), box, datagram[: -len(box)]
            )
        except InvalidTag as error:
            raise FrameError(
                "auth", "a frame that was forged, or altered on the way"
            ) from error
        if life == (self._node, self._epoch):
            return opened  # our own came back, which is no fault of anybody
        if stream is None:
            stream = self._begin(life)
        if fresh:
            stream.ciphers[key_id] = cipher
        window = stream.windows.get(place)
        if window is None:
            window = stream.windows[place] = Window()
        if not window.take(envelope.number):
            raise FrameError(
                "replay",
                "a frame that has come before: somebody repeats frames, or the "
                "network doubles them",
            )
        stream.key_id = key_id
        self._streams[life] = self._streams.pop(life)
        return opened

    def _begin(self, life: tuple[str, int]) -> _Stream:
        """A life that was not heard before; the one silent for longest makes room."""
        if len(self._streams) >= _STREAMS_LIMIT:
            del self._streams[next(iter(self._streams))]
        stream = self._streams[life] = _Stream()
        return stream


def _frame_key(secret: bytes, sender: str, epoch: int) -> bytes:
    """The key of all frames of one life of one sender."""
    hkdf = HKDF(
        algorithm=SHA256(),
        length=32,
        salt=epoch.to_bytes(8),
        info=b"syncd frame" + sender.encode(),
    )
    return hkdf.derive(secret)


def _nonce(place: int, number: int) -> bytes:
    return place.to_bytes() + bytes(3) + number.to_bytes(8)
