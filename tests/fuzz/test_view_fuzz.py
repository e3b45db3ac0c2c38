"""Any bytes are described and printed, or give RecordError, nothing else."""

import contextlib
import json
import random
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from syncd.errors import ControlError, RecordError
from syncd.flows import view

DATA = Path(__file__).parents[1] / "data" / "ctnetlink"
MESSAGES = tuple(
    bytes.fromhex(json.loads(text)["hex"])
    for name in ("kitchen_sink_ftp4", "tcp6_close", "sctp4", "sip4_register_invite")
    for text in (DATA / f"{name}.jsonl").read_text().splitlines()
)


CLOCK = view.Clock(lambda: 0, time.gmtime)
WISHES = view.Wishes(
    CLOCK,
    events=True,
    extended=True,
    ident=True,
    timestamp=True,
    ktimestamp=True,
    labels={0: "zero"},
)
PRINTERS = [view.Printer(name, WISHES) for name in ("text", "xml", "save", "proc")]


def check(key: bytes, body: bytes) -> None:
    check_message(view.message_of(key, body))


def check_message(message: bytes) -> None:
    with contextlib.suppress(RecordError):
        json.dumps(view.describe_message(message))
    for printer in PRINTERS:
        with contextlib.suppress(RecordError):
            line = printer.line(message)
            assert line is not None
            assert line.isprintable()


@given(st.binary(max_size=120), st.binary(max_size=200))
def test_any_key_and_body(key: bytes, body: bytes) -> None:
    check(key, body)
    check(b"\x02\0\0\0" + key, body)


@given(st.integers(0, 2**32))
def test_recorded_messages_with_changed_bytes(seed: int) -> None:
    chance = random.Random(seed)
    message = bytearray(chance.choice(MESSAGES))
    for _ in range(chance.choice((1, 1, 2, 8))):
        message[chance.randrange(len(message))] = chance.choice((0, 1, 4, 5, 8, 255))
    check_message(bytes(message[: chance.choice((len(message), 100))]))


VALUES = st.one_of(
    *(st.text(max_size=12), st.integers(), st.booleans()),
    st.text("0123456789abcdef:./,xX-[]", max_size=12),
)


@given(st.dictionaries(st.sampled_from(tuple(view.FILTERS)), VALUES, max_size=5))
def test_any_filters_are_applied_or_refused(options: dict[str, object]) -> None:
    try:
        filters = view.read_filters(options)
    except ControlError:
        return
    if filters is None:
        return
    for message in MESSAGES[::7]:
        assert view.Sieve(filters).passes(message) in (True, False)
