"""`syncd keygen` and `syncd keys` without a daemon: files, words, exit statuses."""

import io
import json
import os
from pathlib import Path

import pytest
from syncd import keys
from syncd.cli.main import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "keys")


def said(capsys: Output, *words: str, status: int = 0) -> str:
    socket = ("--socket", "/nowhere/syncd.sock")
    assert main([*words, *socket]) == status
    taken = capsys.readouterr()
    return taken.err if status else taken.out


def made(capsys: Output, path: str) -> str:
    answer = said(capsys, "keygen", "--key-file", path, "--json")
    return str(json.loads(answer)["key"])


def test_keygen_makes_a_private_file_once_and_shows_no_key(
    path: str, capsys: Output
) -> None:
    text = said(capsys, "keygen", "--key-file", path)
    ring = keys.load(path)
    assert ring.sending.id.hex() in text
    assert "copy the file to every node" in text
    assert os.stat(path).st_mode & 0o7777 == 0o600
    before = Path(path).read_text()
    problem = said(capsys, "keygen", "--key-file", path, status=2)
    assert problem.count("\n") == 1
    assert "is there already" in problem
    assert Path(path).read_text() == before
    said(capsys, "keygen", "--key-file", path, "--overwrite")
    assert Path(path).read_text() != before


def test_keygen_takes_the_file_from_the_configuration(
    tmp_path: Path, path: str, capsys: Output
) -> None:
    config = tmp_path / "syncd.toml"
    config.write_text(
        '[[link]]\ninterface = "lo"\ngroup = "225.0.0.50"\n'
        f'[security]\nkey_file = "{path}"\n'
    )
    assert path in said(capsys, "keygen", "-c", str(config))
    listed = json.loads(said(capsys, "keys", "list", "-c", str(config), "--json"))
    assert [row["sending"] for row in listed["keys"]] == [True]
    config.write_text("x = = 1")
    said(capsys, "keys", "list", "-c", str(config), status=2)


def test_a_key_is_added_used_and_the_old_one_dropped(path: str, capsys: Output) -> None:
    first = made(capsys, path)
    answer = said(capsys, "keys", "add", "--key-file", path, "--json")
    second = str(json.loads(answer)["key"])
    assert keys.load(path).sending.id.hex() == first
    refused = said(capsys, "keys", "drop", first, "--key-file", path, status=2)
    assert "is in use" in refused
    text = said(capsys, "keys", "use", second[:6], "--key-file", path)
    assert "no daemon answers here" in text
    assert "dropped" in said(capsys, "keys", "drop", first, "--key-file", path)
    ring = keys.load(path)
    assert [key.id.hex() for key in ring.keys] == [ring.sending.id.hex()] == [second]
    shown = said(capsys, "keys", "list", "--key-file", path)
    assert shown.startswith(f"{second}  in use  made ")


def test_a_key_comes_from_standard_input(
    tmp_path: Path, path: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(capsys, path)
    other = str(tmp_path / "other")
    line = f"* {keys.new_key().secret.hex()} of fw2\n"
    first = made(capsys, other)
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    said(capsys, "keys", "add", "--stdin", "--key-file", other)
    ring = keys.load(other)
    assert ring.sending.id.hex() == first
    assert ring.keys[1].comment == "of fw2"
    for text in (line, "nonsense", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        said(capsys, "keys", "add", "--stdin", "--key-file", other, status=2)
    assert keys.load(other) == ring


@pytest.mark.parametrize("action", ["list", "add", "use", "drop"])
def test_a_file_that_is_missing_or_open_is_refused(
    path: str, action: str, capsys: Output
) -> None:
    which = ["ab"] if action in ("use", "drop") else []
    words = ["keys", action, "--key-file", path, *which]
    assert "keygen" in said(capsys, *words, status=2)
    Path(path).write_text("aa" * 32)
    os.chmod(path, 0o644)
    assert "chmod 600" in said(capsys, *words, status=2)
    assert Path(path).read_text() == "aa" * 32
