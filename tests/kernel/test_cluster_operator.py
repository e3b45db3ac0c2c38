"""What an operator gets wrong, and what a host takes away: one clear line each.

Real processes in namespaces; exit status and messages as docs/operation.md has them.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture
from tests.kernel.cluster import SYNCD, Cluster, Node, inside_command
from tests.lab import Lab, run, sysctl

pytestmark = pytest.mark.kernel

LINK = '[[link]]\ntype = "multicast"\ninterface = "eth2"\ngroup = "225.0.0.50"\n'
OPEN = '[security]\nmode = "off"\n'
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are root's."""
    made = Path(tempfile.mkdtemp(prefix="syncd-test-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def alone(lab: Lab, tmp_path: Path) -> Iterator[Node]:
    """One running node."""
    made = Cluster(lab, tmp_path, ("fw1",))
    try:
        made.start()
        yield made.nodes[0]
    finally:
        made.close()


BAD = (
    ("[node\n", ":1: is not TOML"),
    (OPEN, "link"),
    (LINK.replace("multicast", "carrier pigeon") + OPEN, "link[1].type"),
    (LINK.replace("225.0.0.50", "10.0.0.1") + OPEN, "group"),
    (LINK + "port = 70000\n" + OPEN, "port"),
    (LINK + 'receive_buffer = "many"\n' + OPEN, "receive_buffer"),
    (LINK + "peers = [3]\n" + OPEN, "peers"),
    (LINK + OPEN + "[kernel]\nbuffer = 1\n", "kernel.buffer"),
    (LINK + OPEN + '[kernel]\nreceive_buffer = "-1"\n', "kernel.receive_buffer"),
    (LINK + OPEN + '[commit]\ntimeout = "soon"\n', "commit.timeout"),
    (LINK + OPEN + "[replication]\nwindow_frames = 0\n", "window_frames"),
    (LINK + OPEN + '[replication]\nmode = "hopeful"\n', "replication.mode"),
    (LINK + OPEN + "[replication]\nhello_interval_s = nan\n", "hello_interval_s"),
    (LINK + OPEN + '[filter]\nprotocols = { accept = ["tpc"] }\n', "filter.protocols"),
    (LINK + OPEN + '[filter]\naddresses = { ignore = ["10/33"] }\n', "addresses"),
    (LINK + OPEN + '[filter]\ntcp_states = { accept = ["UP"] }\n', "tcp_states"),
    (LINK + OPEN + '[node]\nname = ""\n', "node.name"),
    (LINK + OPEN + '[node]\nname = "a b\\n"\n', "node.name"),
    (LINK + OPEN + "[control]\nsocket = 5\n", "control.socket"),
    (LINK + OPEN + "[wat]\n", "wat"),
    (LINK + '[security]\nmode = "on"\n', "security.mode"),
)


@pytest.mark.parametrize(("text", "key"), BAD)
def test_a_bad_configuration_names_file_and_key(
    tmp_path: Path, text: str, key: str
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    both = (("check-config", str(file)), ("run", "-c", str(file)))
    for words in both if key == "security.mode" else both[:1]:
        done = subprocess.run(
            [str(SYNCD), *words], capture_output=True, text=True, check=False, timeout=9
        )
        assert done.returncode == 2, done
        lines = done.stderr.splitlines()
        assert lines
        assert all(line.startswith(f"{file}:") for line in lines), lines
        assert any(key in line for line in lines), lines
        assert "Traceback" not in done.stderr


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(LINK + 'port = 0\n[kernel]\nx = 1\n[security]\nmode = "maybe"\n')
    done = subprocess.run(
        [str(SYNCD), "check-config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    for key in ("port", "kernel.x", "security.mode"):
        assert key in done.stderr


def _run_in(namespace: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        inside_command(namespace, *words),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def _one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The only line but warnings; nothing that looks like an accident."""
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "WARNING" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_without_rights_the_daemon_says_so_and_ends_with_4(
    lab: Lab, open_directory: Path
) -> None:
    namespace = lab.namespace("poor")
    file = open_directory / "syncd.toml"
    file.write_text(f'[control]\nsocket = "{open_directory}/s"\n' + LINK + OPEN)
    done = _run_in(namespace, *NOBODY, str(SYNCD), "run", "-c", str(file))
    assert "CAP_NET_ADMIN" in _one_line(done, 4)


def test_a_client_without_rights_ends_with_4(alone: Node, open_directory: Path) -> None:
    # The node's own directory is root's: a link shows the socket to everybody.
    place = open_directory / "syncd.sock"
    os.link(alone.socket, place)
    done = _run_in(
        alone.namespace, *NOBODY, str(SYNCD), "status", "--socket", str(place)
    )
    _one_line(done, 4)


def test_without_a_daemon_a_client_ends_with_3(alone: Node) -> None:
    alone.send_signal(signal.SIGTERM)
    assert alone.wait_for_exit() == 0
    assert not alone.socket.exists()
    for command in ("status", "commit", "promote", "stop"):
        assert _one_line(alone.command(command), 3)


def test_a_second_daemon_on_the_same_socket_is_refused(alone: Node) -> None:
    done = _run_in(alone.namespace, str(SYNCD), "run", "-c", str(alone.config))
    line = _one_line(done, 1)
    assert str(alone.socket) in line
    assert alone.command("status").returncode == 0


def test_a_socket_that_a_killed_daemon_left_is_taken_over(alone: Node) -> None:
    alone.kill()
    assert alone.socket.exists()
    _one_line(alone.command("status"), 3)
    alone.start()
    alone.wait(lambda _: True, "it answers")


def test_a_daemon_is_found_by_its_configuration_whatever_is_in_it_now(
    alone: Node,
) -> None:
    """A failover must not wait for whoever is just editing the file."""
    words = (str(SYNCD), "-c", str(alone.config))
    for command in ("status", "flush kernel", "demote"):
        done = _run_in(alone.namespace, *words, *command.split())
        assert (done.returncode, done.stderr) == (0, ""), done
    text = alone.config.read_text()
    for broken in (text + "[comit]\n", text + "[["):
        alone.config.write_text(broken)
        for command in ("fault", "demote", "status"):
            done = _run_in(alone.namespace, *words, command)
            assert str(alone.config) in _one_line(done, 0)
    alone.config.write_text(text)
    elsewhere = alone.config.with_name("elsewhere.toml")
    elsewhere.write_text(text + "[comit]\n")  # the daemon has never read this one
    done = _run_in(alone.namespace, str(SYNCD), "-c", str(elsewhere), "promote")
    assert done.returncode == 2
    assert str(elsewhere) in done.stderr


def test_a_file_at_the_place_of_the_socket_is_not_deleted(
    lab: Lab, tmp_path: Path
) -> None:
    made = Cluster(lab, tmp_path, ("fw1",))
    node = made.nodes[0]
    node.socket.write_text("precious")
    done = _run_in(node.namespace, str(SYNCD), "run", "-c", str(node.config))
    assert str(node.socket) in _one_line(done, 1)
    assert node.socket.read_text() == "precious"


def test_a_socket_in_a_directory_that_is_not_there_is_one_line(
    lab: Lab, tmp_path: Path
) -> None:
    made = Cluster(lab, tmp_path, ("fw1",))
    node = made.nodes[0]
    text = node.config.read_text().replace(str(node.socket), "/proc/nowhere/s")
    node.config.write_text(text)
    done = _run_in(node.namespace, str(SYNCD), "run", "-c", str(node.config))
    assert "/proc/nowhere" in _one_line(done, 1)


def _talk(node: Node, data: bytes) -> list[dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(15)
        client.connect(str(node.socket))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    return [json.loads(line) for line in answer.splitlines()]


NO_REQUESTS = (
    b"",
    b"\n",
    b"garbage\n",
    b"\xff\xfe\n",
    b"[]\n",
    b"{}\n",
    b'{"command": 5}\n',
    b'{"command": "nonsense"}\n',
    b'{"command": "status", "x": 1}\n',
    b'{"command": "commit", "peer": 7}\n',
    b'{"command": "flush"}\n',
    b'{"command": "flush", "table": "all"}\n',
    b'{"command": "show", "src": "nowhere"}\n',
    b'{"command": "status", "timeout": -1}\n',
    b'{"command": "status", "timeout": 1e999}\n',
    b"[" * 60000 + b"\n",
)


def test_a_request_that_is_none_is_refused(alone: Node) -> None:
    for line in NO_REQUESTS:
        answers = _talk(alone, line)
        assert not answers or answers[-1]["ok"] is False, line[:80]
    assert alone.command("status").returncode == 0
    assert "Traceback" not in alone.log


def test_slow_and_silent_clients_do_not_stop_others(alone: Node) -> None:
    idle = []
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(alone.socket))
        client.sendall(b'{"command": ')
        idle.append(client)
    begin = time.monotonic()
    assert alone.command("status").returncode == 0
    assert time.monotonic() - begin < 5
    for client in idle:
        client.close()


def test_wrong_words_on_the_command_line_end_with_2(alone: Node) -> None:
    for words in (
        ("commit", "--pear", "x"),
        ("flush",),
        ("flush", "everything"),
        ("status", "--timeout", "0"),
        ("show", "--output", "pdf"),
        ("show", "flows", "--proto", "nonsense"),
        ("show", "flows", "--src", "300.1.1.1"),
        ("unknown",),
        (),
    ):
        done = alone.command(*words)
        assert done.returncode == 2, (words, done)
        assert "Traceback" not in done.stderr
    assert alone.command("commit", "--peer", "nobody").returncode == 1


def test_an_interface_may_come_later_go_and_come_back(lab: Lab, tmp_path: Path) -> None:
    made = Cluster(lab, tmp_path)
    first, second = made.nodes
    roads = mixture.Roads(lab, first.namespace)
    try:
        lab.unplug(second.namespace, "eth2")
        first.start()
        second.start()
        second.wait(
            lambda status: status["links"][0]["state"] != "active", "the link waits"
        )
        first.wait(
            lambda status: status["links"][0]["state"] == "active", "the link is there"
        )
        mixture.play(roads, first.namespace, mixture.talks(200))
        for _ in range(2):
            lab.plug(second.namespace, "eth2", made.switch, "bridge")
            lab.address(second.namespace, "eth2", "10.99.0.2/24")
            second.wait_in_step(1)
            cluster.wait_until_equal(first, second, 2.0)
            lab.unplug(second.namespace, "eth2")
            second.wait(
                lambda status: status["peers"][0]["state"] == "lost", "fw1 is lost"
            )
            assert second.status()["links"][0]["state"] != "active"
        assert "no link is active" not in first.log  # nor before it had looked
        assert first.status()["links"][0]["switches"] == 0
        assert "no link is active" in second.log
        said = [line for line in second.log.splitlines() if "eth2" in line]
        assert len(said) <= 10, said
    finally:
        made.close()
        roads.close()


def test_the_log_tells_of_roles_and_of_tables_that_were_emptied(alone: Node) -> None:
    for command in ("promote", "promote", "demote", "fault"):
        assert alone.command(command).returncode == 0
    assert alone.command("flush", "own").returncode == 0
    roles = [line for line in alone.log.splitlines() if "role " in line]
    assert [line.partition("role ")[2] for line in roles] == [
        "primary, was backup",
        "backup, was primary",
        "fault, was backup",
    ]
    assert "flush own: " in alone.log


def test_the_figures_come_as_text_for_prometheus(alone: Node) -> None:
    done = alone.command("metrics")
    assert done.returncode == 0
    assert "\nsyncd_ready 0\n" in done.stdout or "\nsyncd_ready 1\n" in done.stdout


def test_a_cable_that_is_cut_for_a_while_heals(lab: Lab, tmp_path: Path) -> None:
    with cluster.running(lab, tmp_path) as made:
        first, second = made.nodes
        for _ in range(2):
            cluster.set_link(second.namespace, "eth2", "down")
            first.wait(
                lambda status: status["peers"][0]["state"] == "lost", "fw2 is lost"
            )
            cluster.set_link(second.namespace, "eth2", "up")
            first.wait_in_step(1)
            second.wait_in_step(1)
        assert second.command("verify").returncode == 0


READ_ONLY = 'mount -o bind,ro /proc/sys /proc/sys && exec "$0" run -c "$1"'


@pytest.mark.parametrize("events", [1, 0])
def test_settings_that_cannot_be_written(lab: Lab, tmp_path: Path, events: int) -> None:
    made = Cluster(lab, tmp_path, ("fw1",))
    node = made.nodes[0]
    sysctl(node.namespace, "net.netfilter.nf_conntrack_events", events)
    words = inside_command(node.namespace, "unshare", "-m", "sh", "-c", READ_ONLY)
    started = subprocess.Popen(
        [*words, str(SYNCD), str(node.config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    try:
        if events == 0:
            said = started.stderr.read()
            assert started.wait(10) == 1
            assert "nf_conntrack_events" in said
            assert "Traceback" not in said
            return
        end = time.monotonic() + 10
        while not node.socket.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert node.command("status").returncode == 0
    finally:
        started.terminate()
        started.wait(10)
        started.stderr.close()


def test_a_clean_stop_leaves_nothing_behind(alone: Node) -> None:
    assert alone.command("stop").returncode == 0
    assert alone.wait_for_exit() == 0
    assert not alone.socket.exists()
    assert "Traceback" not in alone.log
    run("ip", "netns", "list")


def test_a_client_says_what_is_wrong_in_a_file_that_the_daemon_does_not_run_with(
    alone: Node,
) -> None:
    def status() -> subprocess.CompletedProcess[str]:
        command = [str(SYNCD), "status", "-c", str(alone.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert status().returncode == 0
    text = alone.config.read_text()
    alone.config.write_text(text + "[kernel]\nbuffer = 1\n")
    done = status()
    assert done.returncode == 0
    assert "kernel.buffer" in done.stderr
    alone.config.write_text(text + "# edited\n")
    assert status().returncode == 0
