"""Each datagram is taken apart once for all nodes that get it, and made once.

In: datagrams and payloads as they arrive, HELLOs as they leave (each is packed to see
how long it is, then to leave). Out: what the engine's own coder makes of them, which
depends on nothing but what they say. The rule: what one node gets no other node can
change. What is refused is refused anew each time.
"""

from collections import deque

from syncd.replication.frame import Coder, Data, Envelope, Unknown
from syncd.replication.hello import Hello

_REMEMBERED = 256  # datagrams: most copies of one arrive within milliseconds
_PACKED = 3  # HELLOs: one for each link


class _Read:
    """One datagram, as far as it has been taken apart."""

    __slots__ = ("content", "envelope", "payload")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.payload = b""  # opened
        self.content: Hello | Data | Unknown | None = None


class SharedCoder(Coder):
    """The coder of all engines of a run: it keeps no state of any of them."""

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[bytes, _Read] = {}
        self._latest: _Read | None = None
        self._packed: deque[tuple[Hello, bytes]] = deque(maxlen=_PACKED)

    def pack_hello(self, hello: Hello) -> bytes:
        """The payload of one HELLO frame."""
        for known, payload in self._packed:
            if known == hello:
                return payload
        payload = super().pack_hello(hello)
        self._packed.append((hello, payload))
        return payload

    def unwrap(self, datagram: bytes) -> Envelope:
        """What stands around a payload."""
        read = self._read.get(datagram)
        if read is None:
            self._latest = None
            read = _Read(super().unwrap(datagram))
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            self._read[datagram] = read
        self._latest = read
        return read.envelope

    def content(self, payload: bytes) -> Hello | Data | Unknown:
        """What a payload says; of DATA each node has lists of its own."""
        read = self._latest
        if read is None or read.content is None or read.payload != payload:
            content = super().content(payload)
            if read is not None:
                read.payload, read.content = payload, content
        else:
            content = read.content
        return _own_lists(content) if type(content) is Data else content


def _own_lists(data: Data) -> Data:
    return Data(
        data.floor,
        data.resync,
        data.flows[:],
        data.flow_ends[:],
        data.expectations[:],
        data.expectation_ends[:],
        data.proof,
        data.inventory,
    )
