"""Sealed clusters of real daemons: first key, rollout, rotation, strangers, rights.

Real processes in namespaces on one sync bridge; a stranger on that bridge has no key.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from syncd import keys
from syncd.replication.frame import Coder
from syncd.replication.hello import Hello

from tests.kernel import cluster, mixture
from tests.kernel.churn import Churn
from tests.kernel.cluster import SYNCD, Cluster, Node, inside_command
from tests.kernel.stranger import Stranger
from tests.lab import Lab, sysctl

pytestmark = pytest.mark.kernel

NAMES = ("fw1", "fw2", "fw3")
RATE = 3000.0
LINK = '[[link]]\ninterface = "eth2"\ngroup = "225.0.0.50"\n'


def _key_files(directory: Path, names: tuple[str, ...] = NAMES) -> str:
    """The same key for every node, each in its own file; the id."""
    ring = keys.KeyRing((key := keys.new_key(),), key)
    for name in names:
        keys.create(str(directory / f"{name}.keys"), ring)
    return key.id.hex()


def _security(directory: Path, mode: str = "enforce") -> str:
    return f'mode = "{mode}"\nkey_file = "{directory}/{{name}}.keys"'


@contextmanager
def _loaded(made: Cluster) -> Iterator[Churn]:
    """A started cluster with a load on its first node."""
    first = made.nodes[0].namespace
    roads = mixture.Roads(made.lab, first)
    load = Churn(roads, first, 500)
    try:
        made.start()
        yield load
    finally:
        made.close()
        load.close()
        roads.close()


def _rejected(node: Node, reason: str) -> int:
    return int(node.status()["links"][0]["rejected_frames"][reason])


def _states(node: Node) -> list[str]:
    return [str(peer["state"]) for peer in node.status()["peers"]]


def _lost_sync(made: Cluster) -> list[str]:
    """What the logs say of peers that were lost, or seen to begin anew."""
    words = ("lost", "restarted", "resync from")
    return [
        line
        for node in made.nodes
        for line in node.log.splitlines()
        if any(word in line for word in words)
    ]


def test_without_a_key_a_daemon_does_not_start_and_says_what_helps(
    lab: Lab, tmp_path: Path
) -> None:
    file, key_file = tmp_path / "syncd.toml", tmp_path / "keys"
    file.write_text(
        f'{LINK}[control]\nsocket = "{tmp_path}/s"\n'
        f'[security]\nkey_file = "{key_file}"\n'
    )
    namespace = lab.namespace("keyless")
    words = inside_command(namespace, str(SYNCD), "run", "-c", str(file))
    for prepare, text in (
        (lambda: None, "syncd keygen"),
        (lambda: key_file.write_text("aa" * 32), f"chmod 600 {key_file}"),
        (lambda: os.chmod(key_file, 0o600), ""),
    ):
        prepare()
        if not text:
            break
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=20
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert text in done.stderr
    node = Node("fw1", namespace, tmp_path, security=f'key_file = "{key_file}"')
    try:
        node.start()
        status = node.wait(lambda _: True, "it answers")
        assert "mode is off" not in node.log
        assert "aaaa" not in node.log
        assert status["security"]["mode"] == "enforce"
    finally:
        node.close()


def test_a_sealed_cluster_is_in_step_and_shows_no_flow(
    lab: Lab, tmp_path: Path
) -> None:
    _key_files(tmp_path)
    made = Cluster(lab, tmp_path, NAMES, security=_security(tmp_path))
    stranger = Stranger(made)
    try:
        with _loaded(made) as load:
            load.run(RATE, 1.0)
            for copy in made.nodes[1:]:
                cluster.wait_until_equal(made.nodes[0], copy, 3.0, among=3)
            heard = stranger.overhear(20)
            coder = Coder()
            assert {coder.unwrap(frame).payload[0] for frame in heard} == {2}
            for node in made.nodes:
                rejected = node.status()["links"][0]["rejected_frames"]
                assert not any(rejected.values()), rejected
                assert node.command("verify").returncode == 0
    finally:
        stranger.close()


def test_a_rollout_from_off_to_enforce_under_load_loses_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    """Node by node, by SIGHUP: off, permissive, enforce; nobody is ever lost."""
    _key_files(tmp_path)
    made = Cluster(lab, tmp_path, NAMES)
    with _loaded(made) as load:
        before = _lost_sync(made)

        def turn(node: Node, mode: str) -> None:
            security = _security(tmp_path, mode).replace("{name}", node.name)
            node.configure(security)
            node.send_signal(signal.SIGHUP)

        def into(mode: str) -> list[tuple[float, Callable[[], None]]]:
            return [
                (0.2 + 0.6 * number, partial(turn, node, mode))
                for number, node in enumerate(made.nodes)
            ]

        for mode in ("permissive", "enforce"):
            load.run(RATE, 2.2, *into(mode))
            for node in made.nodes:
                assert _states(node) == ["in-step"] * 2
                status = node.status()["security"]
                assert status["mode"] == mode
                assert status["sealing"] is True
            for copy in made.nodes[1:]:
                cluster.wait_until_equal(made.nodes[0], copy, 3.0, among=3)
        assert _lost_sync(made) == before
        assert all(_rejected(node, "auth") == 0 for node in made.nodes)


def test_a_rollout_by_restarts_keeps_the_others_in_step(
    lab: Lab, tmp_path: Path
) -> None:
    _key_files(tmp_path)
    made = Cluster(lab, tmp_path, NAMES)
    with _loaded(made) as load:
        load.run(RATE, 0.5)
        for mode in ("permissive", "enforce"):
            for node in reversed(made.nodes):
                node.send_signal(signal.SIGTERM)
                node.wait_for_exit()
                node.configure(_security(tmp_path, mode).replace("{name}", node.name))
                node.start()
                for other in made.nodes:
                    other.wait_in_step(2)
            load.run(RATE, 0.3)
            for copy in made.nodes[1:]:
                cluster.wait_until_equal(made.nodes[0], copy, 3.0, among=3)


def test_keys_are_rotated_under_load_and_no_frame_is_lost(
    lab: Lab, tmp_path: Path
) -> None:
    old = _key_files(tmp_path)
    made = Cluster(lab, tmp_path, NAMES, security=_security(tmp_path))
    new = keys.new_key("new")
    line = f"{new.secret.hex()} new\n"

    def keys_command(node: Node, *words: str, stdin: str = "") -> None:
        done = node.keys(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert "no daemon" not in done.stdout

    with _loaded(made) as load:
        first = made.nodes[0]
        before = _lost_sync(made)
        assert first.keys("drop", old).returncode in (1, 2)
        moments: list[tuple[float, Callable[[], None]]] = []
        steps = (("add", "--stdin"), ("use", new.id.hex()), ("drop", old))
        for words in steps:
            for node in made.nodes:
                moments.append(
                    (
                        0.2 + 0.5 * len(moments),
                        partial(keys_command, node, *words, stdin=line),
                    )
                )
        load.run(RATE, 0.5 * len(moments) + 1.0, *moments)
        for copy in made.nodes[1:]:
            cluster.wait_until_equal(first, copy, 3.0, among=3)
        assert _lost_sync(made) == before
        for node in made.nodes:
            status = node.status()
            assert _rejected(node, "auth") == 0
            assert status["security"]["key"] == new.id.hex()
            assert [row["lost_frames"] for row in status["peers"]] == [0, 0]
            assert new.secret.hex() not in node.log


def test_a_key_that_a_peer_does_not_have_is_not_used(lab: Lab, tmp_path: Path) -> None:
    _key_files(tmp_path)
    made = Cluster(lab, tmp_path, security=_security(tmp_path))
    try:
        made.start()
        first = made.nodes[0]
        new = json.loads(first.keys("add", "--json").stdout)["key"]
        done = first.keys("use", new)
        assert done.returncode == 1
        assert "fw2 cannot open frames of key" in done.stderr
        assert first.status()["security"]["key"] != new
        with (tmp_path / "fw1.keys").open("a") as file:
            file.write("nonsense\n")
        first.send_signal(signal.SIGHUP)
        first.wait(lambda _: "not reloaded" in first.log, "it says so")
        assert _states(first) == ["in-step"]
    finally:
        made.close()


def test_a_stranger_without_the_key_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """Recorded, repeated, altered, cut, spliced and forged frames: all counted."""
    _key_files(tmp_path)
    made = Cluster(lab, tmp_path, ("fw1", "fw2"), security=_security(tmp_path))
    stranger = Stranger(made)
    draw = random.Random(11)
    try:
        with _loaded(made) as load:
            load.run(RATE, 0.5)
            first, second = made.nodes
            cluster.wait_until_equal(first, second, 3.0)
            real = stranger.overhear(40)
            before = second.status()
            for _ in range(3):
                for frame in real:
                    stranger.send(frame)
            _settled(second, "replay", 3 * sum(b"fw1" in frame[:8] for frame in real))
            count = _rejected(second, "auth")
            coder, sent = Coder(), 0
            for frame in real:
                turned = bytearray(frame)
                turned[-1 - draw.randrange(20)] ^= 1 << draw.randrange(8)
                stranger.send(bytes(turned))
                head = coder.unwrap(frame)
                other = coder.unwrap(draw.choice(real))
                stranger.send(
                    coder.wrap("fw1", head.epoch, head.number + 77, other.payload)
                )
                hello = coder.pack_hello(Hello(role="primary", claim=1 << 40))
                stranger.send(coder.wrap("fw1", head.epoch, 1 << 60, hello))
                stranger.send(coder.wrap("fw1", draw.getrandbits(62), 1, hello))
                sent += 4
            _settled(second, "auth", count + sent)
            malformed = _rejected(second, "malformed")
            for frame in real:
                stranger.send(frame[: draw.randrange(len(frame))])
            _settled(second, "malformed", malformed + len(real))
            load.run(RATE, 0.5)
            cluster.wait_until_equal(first, second, 3.0)
            after = second.status()
            for name in ("role", "claim", "epoch"):
                assert before[name] == after[name]
                assert before["peers"][0][name] == after["peers"][0][name]
            assert [row["state"] for row in after["peers"]] == ["in-step"]
            assert second.log.count("10.99.0.66") <= 3, second.log
            _old_frames_after_a_restart(made, stranger, real)
    finally:
        stranger.close()


def _settled(node: Node, reason: str, count: int) -> None:
    node.wait(
        lambda status: status["links"][0]["rejected_frames"][reason] >= count,
        f"{count} frames are counted as {reason}",
        10.0,
    )


def _old_frames_after_a_restart(
    made: Cluster, stranger: Stranger, real: list[bytes]
) -> None:
    """Both restart; what was recorded before opens nothing."""
    first, second = made.nodes
    for node in (first, second):
        node.kill()
    second.start()
    second.wait(lambda _: True, "it answers")
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        for frame in real:
            stranger.send(frame)
        time.sleep(0.05)
    peers = second.status()["peers"]
    assert [(row["state"], row["flows"], row["claim"]) for row in peers] == [
        ("unknown", 0, 0)
    ]
    first.start()
    first.wait_in_step(1)
    second.wait_in_step(1)
    cluster.wait_until_equal(first, second, 3.0)


def test_only_root_and_the_daemons_user_command_it(lab: Lab, tmp_path: Path) -> None:
    """Even when somebody has opened the socket to all."""
    with cluster.running(lab, tmp_path, ("fw1",)) as made:
        node = made.nodes[0]
        place = Path("/tmp") / f"syncd-test-{os.getpid()}.sock"  # noqa: S108
        os.link(node.socket, place)
        try:
            place.chmod(0o666)
            words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            done = subprocess.run(
                [*words, str(SYNCD), "stop", "--socket", str(place)],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            assert done.returncode == 4, done
            assert "user 65534 may not command this daemon" in done.stderr
            assert node.running
            assert node.command("status").returncode == 0
        finally:
            place.unlink()


USER = 64321


def _as_shipped() -> tuple[str, ...]:
    """What conf/syncd.service gives the daemon, as words in front of a command."""
    unit = Path(__file__).parents[2] / "conf" / "syncd.service"
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    given = {name: value for name, _, value in lines}
    assert given["NoNewPrivileges"] == "yes"
    ambient, bounding = (
        "".join(f",+{name.removeprefix('CAP_').lower()}" for name in given[key].split())
        for key in ("AmbientCapabilities", "CapabilityBoundingSet")
    )
    return (
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
        *(f"--inh-caps=-all{ambient}", f"--ambient-caps=-all{ambient}"),
        *(f"--bounding-set=-all{bounding}", "--no-new-privs"),
    )


ORDINARY = _as_shipped()


@pytest.mark.parametrize("events", [1, 0])
def test_an_ordinary_user_with_one_capability_runs_the_daemon(
    lab: Lab, events: int
) -> None:
    """CAP_NET_ADMIN is all that it needs, for receiving, committing and buffers."""
    directory = Path("/tmp") / f"syncd-user-{os.getpid()}"  # noqa: S108
    directory.mkdir(mode=0o700)
    try:
        _key_files(directory, ("fw1", "fw2"))
        made = Cluster(lab, directory, ("fw1", "fw2"), security=_security(directory))
        for file in (directory, *directory.iterdir()):
            os.chown(file, USER, USER)
        for node in made.nodes:
            node.before = ORDINARY
            sysctl(node.namespace, "net.netfilter.nf_conntrack_events", events)
        with _loaded(made) as load:
            first, second = made.nodes
            load.run(RATE, 0.5)
            cluster.wait_until_equal(first, second, 3.0)
            answer = second.ask("commit")
            assert answer["ok"] is True, answer
            assert answer["created"] > 0
            assert answer["failed"] == 0
            assert second.ask("promote")["ok"] is True
            status = second.status()
            assert status["kernel"]["receive_buffer"] >= 16 << 20
            assert status["links"][0]["receive_buffer"] >= 8 << 20
            assert first.user == USER
            assert "Traceback" not in first.log + second.log
            for node in made.nodes:
                warned = [line for line in node.log.splitlines() if "WARNING" in line]
                rights = ("permi", "denied", "nf_conntrack", "buffer", "CAP_")
                # That the load sets one kernel otherwise than the other is no refusal.
                warned = [line for line in warned if "is set differently" not in line]
                refused = [line for line in warned if any(w in line for w in rights)]
                assert not refused, refused
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
