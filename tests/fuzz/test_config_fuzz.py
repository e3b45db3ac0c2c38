"""Any text gives a `Config` or a `ConfigError` of one-line problems, nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st
from syncd.config import parse
from syncd.errors import ConfigError

KEYS = st.sampled_from(
    (
        *("node", "name", "control", "socket", "link", "type", "interface", "group"),
        *("port", "local", "peers", "replication", "mode", "standby", "expectations"),
        *("hello_interval_s", "silence_s", "security", "key_file", "kernel"),
        *("receive_buffer", "reliable_events", "commit", "timeout", "filter"),
        *("protocols", "addresses", "tcp_states", "accept", "ignore"),
        "audit_interval_s",
    )
)
WORDS = st.sampled_from(
    (
        *("multicast", "unicast", "tcp", "225.0.0.50", "10.0.0.1", "fe80::1", "off"),
        *("64 KiB", "estimate", "eth0", "/a", "10.0.0.0/8", "ESTABLISHED", "reliable"),
    )
)
SCALARS = st.one_of(
    *(st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=20)),
)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()]
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value).replace("\\u007f", "").replace("\x7f", "")
    return str(value).lower()


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(KEYS, st.text(max_size=5)), inner, max_size=3)
    ),
    max_leaves=8,
)


def check(text: str) -> None:
    problems = ["f.toml: would be accepted"]
    try:
        parse(text, "f.toml")
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.startswith("f.toml:") for problem in problems)
    assert all(len(problem.splitlines()) == 1 for problem in problems)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    check(text)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_known_keys_with_any_value_are_read_or_refused(data: dict[str, object]) -> None:
    check("\n".join(f"{key} = {toml(value)}" for key, value in data.items()))
