"""What answers at the socket is read line by line, whatever it is."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from syncd.cli import client
from syncd.errors import ControlError

Answering = Callable[..., str]


@pytest.fixture
def answering(tmp_path: Path) -> Answering:
    """Serve one client with these bytes; gives the socket's path."""

    def serve(data: bytes, *, hold: bool = False) -> str:
        path = str(tmp_path / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)

        def run() -> None:
            connection, _ = listener.accept()
            with listener, connection:
                connection.recv(65536)
                connection.sendall(data)
                if hold:  # until the client has gone
                    connection.recv(1)

        threading.Thread(target=run, daemon=True).start()
        return path

    return serve


def test_answers_are_handed_out_until_the_one_with_ok(answering: Answering) -> None:
    path = answering(b'{"row": 1}\n{"row": 2}\n{"ok": true, "n": 2}\n{"row": 3}\n')
    answers = list(client.ask(path, "show", {}))
    assert answers == [{"row": 1}, {"row": 2}, {"ok": True, "n": 2}]


def test_the_last_answer_alone(answering: Answering) -> None:
    path = answering(b'{"row": 1}\n{"ok": false, "error": "no", "status": 4}\n')
    answer = client.ask_once(path, "commit", {"peer": "fw2"})
    assert client.outcome(answer) == 4


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 3), (b'{"row": 1}\n', 3), (b'{"ok": tr', 3), (b"hello\n", 1), (b"[]\n", 1)],
)
def test_what_is_no_answer_is_an_error(
    answering: Answering, data: bytes, status: int
) -> None:
    with pytest.raises(ControlError) as caught:
        client.ask_once(answering(data), "status", {})
    assert caught.value.status == status


def test_a_daemon_that_hangs_is_given_up(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "QUICK_S", 0.05)
    with pytest.raises(ControlError, match=r"within 0\.05 s") as caught:
        client.ask_once(answering(b"", hold=True), "status", {}, quick=True)
    assert caught.value.status == 3


def test_the_exit_status_is_that_of_the_answer() -> None:
    assert client.outcome({"ok": True}) == 0
    assert client.outcome({"ok": False}) == 1
    assert client.outcome({"ok": False, "status": 2}) == 2
    assert client.outcome({"ok": False, "status": 0}) == 1
    assert client.outcome({}) == 1
