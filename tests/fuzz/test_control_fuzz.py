"""Any line is a checked request or a refusal with status 2, on one line."""

import json

from hypothesis import given
from hypothesis import strategies as st
from syncd.daemon.commands import COMMANDS, read_request, refusal
from syncd.errors import ControlError

OPTIONS = sorted({name for command in COMMANDS.values() for name in command.options})
VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        st.sampled_from(
            ("own", "peer", "kernel", "pull", "flows", "10.0.0.0/8", "tcp")
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def check(line: bytes) -> None:
    try:
        request = read_request(line)
    except ControlError as error:
        answer = json.dumps(refusal(error))
        status = error.status
    else:
        known = COMMANDS[request.command].options
        answer, status = json.dumps(request.options), 2
        assert all(known[key].accepts(value) for key, value in request.options.items())
    assert status == 2
    assert len(answer.splitlines()) == 1


@given(st.binary(max_size=300))
def test_any_bytes(line: bytes) -> None:
    check(line)


@given(
    st.sampled_from(sorted(COMMANDS)) | st.text(max_size=8),
    st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=4), VALUES, max_size=5),
)
def test_any_command_with_any_options(name: str, options: dict[str, object]) -> None:
    check(json.dumps({"command": name, **options}).encode())


@given(VALUES)
def test_any_json(value: object) -> None:
    check(json.dumps(value).encode())
