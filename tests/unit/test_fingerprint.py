"""Where clients find the daemon without reading the whole configuration."""

from pathlib import Path

import pytest
from syncd.config import DEFAULT_SOCKET, load, parse
from syncd.fingerprint import fingerprint, plain_socket

REST = '[[link]]\ninterface = "eth2"\ngroup = "225.0.0.50"\n[security]\nmode = "off"\n'


@pytest.mark.parametrize(
    "control",
    [
        '[control]\nsocket = "/run/s"\n',
        '[node]\nname = "fw1"\n[control]\n\n# where\n  socket="/run/s" # here\n',
        '[control]\r\nsocket = "/run/s"\r\n',
    ],
)
def test_a_plain_path_is_found(control: str) -> None:
    assert plain_socket((control + REST).encode()) == "/run/s"
    assert parse(control + REST, "f", "fw1").control.socket == "/run/s"


@pytest.mark.parametrize(
    "control",
    [
        "",
        "[control]\nsocket = '/run/s'\n",
        '[control]\nsocket = "/run/\\u0073"\n',
        'control = {socket = "/run/s"}\n',
        'control.socket = "/run/s"\n',
        '[control]\n[node]\nsocket = "/run/s"\n',
        '[control]\nsocket = "/run/s"\nsocket = "/run/t"\n',
    ],
)
def test_anything_else_is_left_to_the_whole_reading(control: str) -> None:
    assert plain_socket((control + REST).encode()) is None


def test_a_configuration_knows_the_fingerprint_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(REST)
    config = load(str(file))
    assert config.control.socket == DEFAULT_SOCKET
    assert config.fingerprint == fingerprint(REST.encode())
    assert config.fingerprint != fingerprint(REST.replace("eth2", "eth3").encode())
