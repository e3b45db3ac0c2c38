"""Whatever arrives at the sync port: counted or taken, never raised.

Garbage, and then what is worse than garbage: datagrams of a real exchange, truncated,
with flipped bytes, with fields of wrong kinds and sizes, under foreign names.
"""

import msgpack
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from syncd.config_filter import FilterConfig
from syncd.errors import FrameError
from syncd.flows.filter import RecordFilter
from syncd.replication.engine import ReplicationEngine
from syncd.replication.frame import CONTENT_LIMIT, Coder
from syncd.replication.hello import MAJOR
from syncd.replication.settings import Settings

REASONS = {"malformed", "version", "auth", "replay", "name", "peers", "mode"}
SOURCE = "10.0.0.2"

# NEW and UPDATE of one TCP flow (reference: samples of Linux 6.18).
_FLOW = (
    "02000000"
    "3400018014000180080001000a4d010a080002000a4d020a1c00028005000100060000000600020"
    "0ada60000060003001b5800003400028014000180080001000a4d020a080002000a4d02631c00028"
    "00500010006000000060002001b580000060003004e20000008000c004f5f3aa4080003000000019e"
    "0800070000069780300004802c0001800500010003000000050002000a000000050003000a000000"
    "06000400230000000600050023000000"
)
EVENT = bytes.fromhex("c4000000000100060000000000000000" + _FLOW)


def engine(name: str) -> ReplicationEngine:
    accept_all = RecordFilter(FilterConfig(), expectations=True)
    made = ReplicationEngine(name, 1 + len(name), Settings(), accept_all, 0.0)
    made.begin_dump(0.0)
    made.end_dump(0.0)
    return made


def exchange() -> tuple[ReplicationEngine, list[bytes]]:
    """Two nodes that got in step; the one, and all that the other one sent."""
    left, right = engine("fw1"), engine("fw02")
    left.kernel_events([EVENT], 0.0)
    said: list[bytes] = []
    for beat in range(60):
        now = beat * 0.05
        for node, other in ((left, right), (right, left)):
            node.tick(now)
            for _, datagram in node.send(now):
                if node is left:
                    said.append(datagram)
                other.receive(datagram, 0, SOURCE, now)
    assert left.peers["fw02"].state.value == "in-step"
    return right, said


_, DATAGRAMS = exchange()


def take(node: ReplicationEngine, datagram: bytes) -> str | None:
    """One datagram, and then a life that goes on."""
    reason = node.receive(datagram, 0, SOURCE, 10.0)
    assert reason is None or reason in REASONS
    node.tick(10.0)
    for _, answer in node.send(10.0):
        assert len(answer) <= Settings().frame_bytes
    node.take_messages()
    return reason


@given(st.binary(max_size=2000))
def test_garbage_is_counted(garbage: bytes) -> None:
    assert take(engine("fw02"), garbage) in REASONS


@given(st.sampled_from(DATAGRAMS), st.integers(min_value=0))
def test_truncated_frames_are_counted(datagram: bytes, length: int) -> None:
    assert take(engine("fw02"), datagram[: length % len(datagram)]) in REASONS


@given(
    st.lists(st.tuples(st.sampled_from(DATAGRAMS), st.integers(0), st.integers(1, 255)))
)
@settings(deadline=None)
def test_flipped_bytes_never_raise(flips: list[tuple[bytes, int, int]]) -> None:
    node, _ = exchange()
    for datagram, place, bits in flips:
        flipped = bytearray(datagram)
        flipped[place % len(flipped)] ^= bits
        take(node, bytes(flipped))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=9)
        | st.dictionaries(st.text(max_size=12), inner, max_size=5)
    ),
    max_leaves=30,
)
FIELDS = st.sampled_from(
    (
        *("version", "order", "capabilities", "role", "claim", "owner", "floor"),
        *("reply", "flows", "expectations", "acks", "services", "compare"),
    )
)
CONTENTS = (
    VALUES
    | st.tuples(st.integers(0, 3), st.dictionaries(FIELDS, VALUES)).map(list)
    | st.lists(VALUES, min_size=7, max_size=11).map(lambda rest: [1, *rest])
    | st.tuples(VALUES, VALUES).map(lambda rest: [1, 0, 0, [], [], [], [], 0, *rest])
)
SMALL = st.integers(0, 70)
GAPS = st.lists(st.tuples(SMALL, SMALL), max_size=3).map(
    lambda pairs: [number for pair in pairs for number in pair]
)
# node, epoch, highest, gaps, wants, service, claim, primary, marker, verdict, buckets,
# asks
ACKS = st.lists(
    st.tuples(
        *(st.sampled_from(("fw1", "fw02", "x")), st.sampled_from((4, 5, 9)), SMALL),
        *(GAPS, st.integers(-1, 9), SMALL, SMALL, st.integers(0, 1), SMALL),
        *(st.integers(0, 4), st.integers(0, 99), st.lists(SMALL, max_size=4)),
    ).map(list),
    max_size=4,
)


def envelope(
    content: object, *, packed: bool, name: str, epoch: int, number: int
) -> bytes:
    payload = msgpack.packb(content)
    payload = b"\1" + zstandard.compress(payload) if packed else b"\0" + payload
    datagram = msgpack.packb((MAJOR, name, epoch, number, payload))
    assert isinstance(datagram, bytes)
    return datagram


@given(CONTENTS, st.booleans(), st.integers(0, 2**63 - 1), st.sampled_from((4, 5, 77)))
@settings(deadline=None)
def test_fields_of_wrong_kinds_never_raise(
    content: object, packed: bool, number: int, epoch: int
) -> None:
    node, _ = exchange()
    take(node, envelope(content, packed=packed, name="fw1", epoch=epoch, number=number))
    take(node, DATAGRAMS[-1])


@given(st.lists(ACKS, max_size=5), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_acknowledgements_of_anything_never_raise(
    words: list[list[object]], first: int
) -> None:
    node, _ = exchange()
    node.kernel_events([EVENT], 9.0)
    for number, acks in enumerate(words, 1000 + first):
        content = [0, {"acks": acks, "services": [], "claim": first}]
        take(node, envelope(content, packed=False, name="fw1", epoch=4, number=number))


@given(st.text(max_size=70), st.integers(-5, 2**65))
def test_foreign_senders_never_raise(name: str, epoch: int) -> None:
    node = engine("fw02")
    try:
        datagram = envelope([0, {}], packed=False, name=name, epoch=epoch, number=1)
    except OverflowError:
        return
    take(node, datagram)
    assert len(node.peers) <= 1


def test_a_huge_datagram_and_a_zip_bomb_are_refused() -> None:
    node = engine("fw02")
    assert take(node, bytes(65507)) in REASONS
    bomb = b"\1" + zstandard.compress(bytes(100 * CONTENT_LIMIT))
    datagram = msgpack.packb((MAJOR, "fw1", 4, 1, bomb))
    assert take(node, datagram) == "malformed"


def test_more_names_than_a_cluster_can_have_are_refused() -> None:
    node = engine("fw02")
    reasons = [
        take(
            node,
            envelope([0, {}], packed=False, name=f"x{index}", epoch=1, number=1),
        )
        for index in range(500)
    ]
    assert len(node.peers) <= 32
    assert reasons[-1] == "peers"


@given(st.binary(max_size=300))
def test_the_coder_raises_nothing_but_frame_errors(garbage: bytes) -> None:
    coder = Coder()
    for datagram in (garbage, msgpack.packb((MAJOR, "fw1", 4, 1, garbage))):
        try:
            coder.unpack(datagram)
        except FrameError as error:
            assert error.reason in REASONS  # noqa: PT017 - the reason is the point


def test_what_was_unaltered_is_taken() -> None:
    node = engine("fw02")
    for datagram in DATAGRAMS:
        assert take(node, datagram) is None
