"""Clients of every kind meet the control socket; the daemon is never blocked."""

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from syncd.daemon.commands import Answer
from syncd.daemon.control import REQUEST_BYTES, ControlServer
from syncd.errors import ControlError, KernelError

pytestmark = pytest.mark.asyncio
PATIENCE_S = 20.0


class Node:
    """Commands that do what a test needs: each option is a way to behave."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def answer(
        self, command: str, options: dict[str, object]
    ) -> AsyncGenerator[Answer, None]:
        if command != "status":
            self.begun.set()
        peer = options.get("peer")
        try:
            if command == "status":
                yield {"ok": True, "did": command}
                return
            if peer == "refuse":
                raise ControlError("not now", 4)
            if peer == "kernel":
                raise KernelError("the kernel said no", 12)
            if peer == "bug":
                raise ZeroDivisionError("a bug")
            if peer == "wait":
                await self.go_on.wait()
            if str(peer).startswith("rows-"):
                for number in range(int(str(peer)[5:])):
                    yield {"row": number, "filler": "x" * 100}
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        self.ended.set()
        if peer != "silent":
            yield {"ok": True, "did": command}


@asynccontextmanager
async def serving(
    path: Path, clients: int = 32, read_s: float = 30.0
) -> AsyncIterator[tuple[Node, ControlServer, list[Exception]]]:
    node, failures = Node(), list[Exception]()
    server = ControlServer(
        str(path),
        node,
        failures.append,
        clients=clients,
        read_s=read_s,
        gone_interval_s=0.001,
    )
    logged = list[str]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: logged.append(str(context)))
    await server.start()
    try:
        yield node, server, failures
    finally:
        await server.close(patience_s=0.0)
    assert not logged


async def talk(path: Path, text: bytes) -> list[Answer]:
    """Send bytes as they are, read all answers."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(text)
        lines = (await reader.read()).splitlines()
        writer.close()
        return [json.loads(line) for line in lines]


async def ask(path: Path, **request: object) -> list[Answer]:
    return await talk(path, json.dumps(request).encode() + b"\n")


async def gossip(path: Path) -> None:
    """Give the server the time of many requests to notice what happened."""
    for _ in range(50):
        await ask(path, command="status")


async def test_a_command_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (_, server, _):
        assert await ask(path, command="status") == [{"ok": True, "did": "status"}]
        assert server.requests == 1


async def test_the_last_answer_has_ok_even_if_the_node_forgets(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        assert await ask(tmp_path / "s", command="commit", peer="silent") == [
            {"ok": True}
        ]


async def test_only_the_owner_may_ask_and_the_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    mask = os.umask(0)
    try:
        async with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(mask)
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(path):
        assert (await ask(path, command="status"))[-1]["ok"] is True


async def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path):
        with pytest.raises(ControlError, match="another daemon answers"):
            await ControlServer(str(path), Node()).start()
        assert (await ask(path, command="status"))[-1]["ok"] is True


async def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        await ControlServer(str(path), Node()).start()
    assert path.read_text() == "precious"


async def test_a_socket_of_somebody_else_is_not_removed_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    async with serving(path):
        path.unlink()
        path.write_text("new")
    assert path.read_text() == "new"


async def test_garbage_is_refused_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (_, server, _):
        for text in (b"\n", b"nonsense\n", b"[]\n", b'{"command": "x"}\n', b"\xff\n"):
            (answer,) = await talk(path, text)
            assert answer["ok"] is False
            assert answer["status"] == 2
        assert server.refused == 5


async def test_a_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        (answer,) = await talk(tmp_path / "s", b"x" * (REQUEST_BYTES + 1))
    assert answer["error"] == f"the request is longer than {REQUEST_BYTES} bytes"


async def test_a_client_that_ends_its_writing_still_gets_its_answer(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command": "verify", "peer": "wait"}')  # no end of line
        writer.write_eof()
        await node.begun.wait()
        await gossip(path)
        assert not node.cancelled.is_set()
        node.go_on.set()
        assert json.loads(await reader.read())["ok"] is True
        writer.close()


async def test_reading_ends_when_the_client_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _), asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command": "verify", "peer": "wait"}\n')
        await node.begun.wait()
        writer.close()
        await node.cancelled.wait()


async def test_a_change_runs_to_its_end_without_its_client(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _), asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command": "commit", "peer": "wait"}\n')
        await node.begun.wait()
        writer.close()
        await gossip(path)
        node.go_on.set()
        await node.ended.wait()
        assert not node.cancelled.is_set()


async def test_reading_is_cut_when_its_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _):
        (answer,) = await ask(path, command="verify", peer="wait", timeout=0.05)
        assert answer["error"] == "verify: not finished in 0.05 s"
        assert answer["status"] == 1
        assert node.cancelled.is_set()


async def test_a_change_goes_on_when_its_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _), asyncio.timeout(PATIENCE_S):
        (answer,) = await ask(path, command="commit", peer="wait", timeout=0.05)
        assert "goes on in the background" in str(answer["error"])
        node.go_on.set()
        await node.ended.wait()
        assert not node.cancelled.is_set()


async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        serving(path, read_s=0.1) as (node, _, _),
        asyncio.timeout(PATIENCE_S),
    ):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        client.send(b'{"command": "verify", "peer": "rows-200000"}\n')
        await node.cancelled.wait()
        # Meanwhile and after it others are answered.
        assert (await ask(path, command="status"))[-1]["ok"] is True
        client.close()


@pytest.mark.parametrize("rows", range(400, 2400, 200))
async def test_a_client_that_reads_late_gets_everything(
    tmp_path: Path, rows: int
) -> None:
    # For some of these sizes a part is still in the daemon when it closes.
    path = tmp_path / "s"
    async with serving(path), asyncio.timeout(PATIENCE_S):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.send(b'{"command": "verify", "peer": "rows-%d"}\n' % rows)
            await gossip(path)
            client.settimeout(0)
            reader, writer = await asyncio.open_unix_connection(sock=client)
            assert len((await reader.read()).splitlines()) == rows + 1
            writer.close()


async def test_others_are_answered_while_a_long_list_goes_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, _, _), asyncio.timeout(60):
        long = asyncio.create_task(ask(path, command="verify", peer="rows-200000"))
        await node.begun.wait()
        for _ in range(3):
            assert (await ask(path, command="status"))[-1]["did"] == "status"
        assert not long.done()
        rows = await long
        assert len(rows) == 200_001
        assert rows[199_999]["row"] == 199_999
        assert rows[-1]["ok"] is True


async def test_too_many_clients_are_turned_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, clients=1) as (node, _, _):
        first = asyncio.create_task(ask(path, command="verify", peer="wait"))
        await node.begun.wait()
        (answer,) = await ask(path, command="status")
        assert answer["error"] == "busy with 1 other clients, try later"
        node.go_on.set()
        assert (await first)[-1]["ok"] is True
        assert (await ask(path, command="status"))[-1]["ok"] is True


async def test_a_client_of_a_stream_may_be_slow_to_read(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, read_s=0.01) as (node, _, _), asyncio.timeout(60):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.send(b'{"command": "watch", "peer": "rows-20000"}\n')
            await node.begun.wait()
            await asyncio.sleep(0.1)
            assert not node.cancelled.is_set()
            client.settimeout(0)
            reader, writer = await asyncio.open_unix_connection(sock=client)
            lines = (await reader.read()).splitlines()
            assert json.loads(lines[-1])["ok"] is True
            assert len(lines) == 20_001
            writer.close()


@pytest.mark.parametrize("command", [b"watch", b"verify"])
async def test_a_client_that_reads_nothing_does_not_hold_up_the_end(
    tmp_path: Path, command: bytes
) -> None:
    path = tmp_path / "s"
    async with asyncio.timeout(PATIENCE_S / 2):
        with socket.socket(socket.AF_UNIX) as client:
            async with serving(path) as (node, _, _):
                client.connect(str(path))
                client.send(b'{"command": "%s", "peer": "rows-200000"}\n' % command)
                await node.begun.wait()
                await gossip(path)
            assert node.cancelled.is_set()


async def test_a_refusal_of_the_node_reaches_the_client(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (_, _, failures):
        refused = {"ok": False, "error": "not now", "status": 4}
        assert await ask(path, command="commit", peer="refuse") == [refused]
        refused = {"ok": False, "error": "the kernel said no", "status": 1}
        assert await ask(path, command="commit", peer="kernel") == [refused]
        assert failures == []


async def test_a_bug_is_told_to_the_client_and_to_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (_, _, failures):
        (answer,) = await ask(path, command="commit", peer="bug")
        assert answer["ok"] is False
        assert [type(failure) for failure in failures] == [ZeroDivisionError]


async def test_the_end_of_the_server_ends_its_clients(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path) as (node, server, _), asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(ask(path, command="commit", peer="wait"))
        idle = await asyncio.open_unix_connection(str(path))
        await node.begun.wait()
        await server.close(patience_s=0.05)
        assert await waiting == []
        assert await idle[0].read() == b""
        idle[1].close()
        assert not path.exists()


async def command(path: Path, *words: str) -> tuple[int, str, str]:
    """The command `syncd` beside the server, as a user runs it."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "syncd", "--socket", str(path), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await started.communicate()
    return started.returncode or 0, out.decode(), err.decode()


async def test_the_command_line_and_the_socket_understand_each_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    async with serving(path):
        assert await command(path, "promote") == (0, "role promote\n", "")
        status, out, _ = await command(path, "status", "--json")
        assert (status, json.loads(out)) == (0, {"ok": True, "did": "status"})
        refused = (4, "", "syncd: not now\n")
        assert await command(path, "commit", "--peer", "refuse") == refused
        status, out, err = await command(
            path, "commit", "--peer", "wait", "--timeout", "0.1"
        )
        assert (status, out) == (1, "")
        assert err.startswith("syncd: commit: not finished in 0.1 s")
