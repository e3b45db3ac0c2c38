"""A cluster of real daemons: nodes in namespaces on one sync bridge.

In: a laboratory, names, more configuration. Out: `Node`s that run `syncd run` and obey
the commands of its command line. The rule: a test sees what an operator sees; daemons
die with the cluster, whatever the test did to them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import reader
from tests.lab import Lab, run, run_in

SYNCD = Path(sys.executable).with_name("syncd")
SYNC_PORT = 3780
PATIENCE_S = 30.0
_LOOK_S = 0.05
_RELAY = Path(__file__).with_name("relay.py")

CONFIGURATION = """
[node]
name = "{name}"
[control]
socket = "{socket}"
[[link]]
type = "multicast"
interface = "eth2"
group = "225.0.0.50"
[security]
{security}
"""
# `SYNCD_TEST_STANDBY=kernel`: tests without one of the marks have warm standbys.
STANDBY = os.environ.get("SYNCD_TEST_STANDBY", "table")
BOTH = pytest.mark.parametrize("standby", ["table", "kernel"], indirect=True)
TABLE = pytest.mark.parametrize("standby", ["table"], indirect=True)
# For tests that compare whole kernels in which the links themselves are tracked.
OWN_TOO = '[filter]\nown_addresses = "accept"\n'
OPEN = 'mode = "off"'  # most tests are about something else


class Node:
    """One daemon in its namespace."""

    def __init__(
        self,
        name: str,
        namespace: str,
        directory: Path,
        more: str = "",
        security: str = OPEN,
        standby: str = STANDBY,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.socket = directory / f"{name}.sock"
        self.config = directory / f"{name}.toml"
        self._log = directory / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None
        self.before: tuple[str, ...] = ()  # words in front of the daemon's command
        self.more = more  # configuration, behind [security]
        self._standby = standby
        self.configure(security)

    def configure(self, security: str) -> None:
        """Write the file anew, with another [security]."""
        text = CONFIGURATION.format(
            name=self.name, socket=self.socket, security=security
        )
        self.config.write_text(text + with_standby(self.more, self._standby))

    def start(self, *before: str) -> None:
        """Start the daemon, `before` in front of its command; it may not answer yet."""
        words = (*self.before, *before, str(SYNCD), "run", "-c", str(self.config))
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                inside_command(self.namespace, *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send_signal(self, number: signal.Signals) -> None:
        assert self._running is not None
        self._running.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, without a last word."""
        self.send_signal(signal.SIGKILL)
        self.wait_for_exit()

    def wait_for_exit(self) -> int:
        assert self._running is not None
        return self._running.wait(PATIENCE_S)

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(signal.SIGCONT)
            self._running.terminate()
            try:
                self._running.wait(5)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()

    @property
    def warm(self) -> bool:
        """Does its kernel hold what the others' kernels hold?"""
        return 'standby = "kernel"' in self.config.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The daemon's: `ip`, and what stood before it, have become it."""
        assert self._running is not None
        return self._running.pid

    @property
    def user(self) -> int:
        """Who the daemon runs as."""
        assert self._running is not None
        return os.stat(f"/proc/{self._running.pid}").st_uid

    @property
    def running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a client command, whatever it answers."""
        return subprocess.run(
            [str(SYNCD), *words, "--socket", str(self.socket)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def keys(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `syncd keys` on this node."""
        return subprocess.run(
            [str(SYNCD), "keys", *words, "-c", str(self.config)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    # The answers are whatever JSON says.
    def ask(self, *words: str) -> dict[str, Any]:
        """Run a client command with --json; its answer, which must be there."""
        done = self.command(*words, "--json")
        if not done.stdout.startswith("{"):
            raise AssertionError(f"{self.name}: {words}: {done.stderr}\n{self.log}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def peer(self, name: str) -> dict[str, Any]:
        """What status says about one peer; empty when it is not known."""
        rows = [row for row in self.status()["peers"] if row["node"] == name]
        return rows[0] if rows else {}

    def table(
        self, table: str, what: str = "flows", peer: str | None = None
    ) -> reader.Rows:
        """One table, as `syncd show --json` prints it."""
        more = () if peer is None else ("--peer", peer)
        done = self.command("show", what, "--table", table, "--json", *more)
        assert done.returncode == 0, done.stderr
        return reader.shown_rows(done.stdout)

    def kernel(self, kind: int = reader.FLOWS) -> reader.Rows:
        """The kernel's table, by the independent reader."""
        return reader.kernel_rows(self.namespace, kind)

    def wait(
        self,
        good: Callable[[dict[str, Any]], bool],
        what: str,
        patience_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Wait until status says so."""
        end = time.monotonic() + patience_s
        status: dict[str, Any] = {}
        while time.monotonic() < end:
            if not self.running:
                raise AssertionError(f"{self.name} has ended:\n{self.log}")
            if self.socket.exists() and self.command("status").returncode == 0:
                status = self.status()
                if good(status):
                    return status
            time.sleep(_LOOK_S)
        raise AssertionError(
            f"{self.name}: waited in vain until {what}: {status}\n{self.log}"
        )

    def wait_in_step(self, peers: int) -> None:
        """Wait until so many peers are in step and nothing waits to be told."""
        self.wait(
            lambda status: (
                [row["state"] for row in status["peers"]] == ["in-step"] * peers
            ),
            f"{peers} peers are in step",
        )


class Cluster:
    """Nodes on one bridge, or around a relay that mistreats what it carries."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        names: tuple[str, ...] = ("fw1", "fw2"),
        more: str = "",
        relay: Mapping[str, object] | None = None,
        security: str = OPEN,
        standby: str = STANDBY,
    ) -> None:
        """In `security` the word {name} stands for the node's name."""
        self.lab = lab
        self.standby = standby
        self._security = security
        self.switch = lab.namespace("switch")
        if relay is None:
            lab.bridge(self.switch, "bridge")
        self.nodes = [
            self._node(number, name, directory, more, relay is not None)
            for number, name in enumerate(names, 1)
        ]
        if relay is not None:
            ports = ",".join(f"port-{name}" for name in names)
            lab.start(
                self.switch,
                *(sys.executable, str(_RELAY), ports, json.dumps(dict(relay))),
                output=None,
            )

    def _node(
        self, number: int, name: str, directory: Path, more: str, relayed: bool
    ) -> Node:
        namespace = self.lab.namespace(name)
        if relayed:
            self.lab.cable(self.switch, f"port-{name}", namespace, "eth2")
            # The relay sees frames before a network card would fill in checksums.
            run_in(namespace, "ethtool", "-K", "eth2", "tx", "off")
        else:
            self.lab.plug(namespace, "eth2", self.switch, "bridge")
        self.lab.address(namespace, "eth2", f"10.99.0.{number}/24")
        security = self._security.replace("{name}", name)
        return Node(name, namespace, directory, more, security, self.standby)

    def start(self) -> None:
        """Start all, wait until all are in step with all."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_in_step(len(self.nodes) - 1)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextmanager
def running(
    lab: Lab,
    directory: Path,
    names: tuple[str, ...] = ("fw1", "fw2"),
    more: str = "",
    relay: Mapping[str, object] | None = None,
    standby: str = STANDBY,
) -> Iterator[Cluster]:
    """A started cluster that has ended when the block ends."""
    cluster = Cluster(lab, directory, names, more, relay, standby=standby)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def wait_until_equal(
    source: Node,
    copy: Node,
    patience_s: float,
    *,
    among: int = 2,
    view: Callable[[reader.Row], reader.Row] = reader.as_replicated,
    kernels: bool = True,
    leftovers: bool = False,
) -> float:
    """Wait until `copy`'s peer table is `source`'s kernel table; after how long.

    What the source itself has only as a copy the other one need not hear from it; but
    the kernel of a warm standby must be as the source's (`kernels`), but for copies of
    what ended while the source's daemon was not there (`leftovers`). The time is that
    at which the copy was asked, reading and judging not counted.
    """
    if copy.warm:
        view = reader.as_told  # packets of a copy that became own change a flag
    begin = time.monotonic()
    peer = source.name if among > 2 else None
    while True:
        asked = time.monotonic() - begin
        found = copy.table("peer", peer=peer)
        kernel = source.kernel()
        if copy.warm:
            told = _but_for_copies(source, kernel, found)
            wrong = reader.differences(told, found, view)
            if kernels:
                held = copy.kernel()
                if leftovers:
                    held = {key: row for key, row in held.items() if key in kernel}
                wrong += reader.differences(kernel, held, reader.as_committed)
        else:
            wrong = reader.differences(kernel, found, view)
        if not wrong:
            return asked
        if asked > patience_s:
            raise AssertionError(
                f"{len(wrong)} differences after {asked:.1f} s: {wrong[:5]}\n{copy.log}"
            )
        time.sleep(_LOOK_S)


def _but_for_copies(
    source: Node, kernel: reader.Rows, told: reader.Rows
) -> reader.Rows:
    """Of the source's kernel what it must tell: a peer tells it the rest."""
    if source.command("status").returncode != 0:
        return kernel  # it starts just now
    peers = [row["node"] for row in source.status()["peers"]]
    copies = {key for name in peers for key in source.table("peer", peer=name)}
    return {k: row for k, row in kernel.items() if k in told or k not in copies}


def with_standby(more: str, standby: str) -> str:
    """The configuration with `standby`, unless it chooses one itself."""
    if standby == "table" or "standby =" in more:
        return more
    section, line = "[replication]\n", f'standby = "{standby}"\n'
    if section in more:
        return more.replace(section, section + line)
    return more + section + line


def inside_command(namespace: str, *words: str | Path) -> list[str]:
    return ["ip", "netns", "exec", namespace, *map(str, words)]


def set_link(namespace: str, interface: str, state: str) -> None:
    run("ip", "-n", namespace, "link", "set", interface, state)
