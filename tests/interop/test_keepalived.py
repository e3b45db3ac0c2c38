"""Two firewalls under a real keepalived: conf/keepalived and scripts/syncd-failover.

The configurations are those of conf/keepalived, with other paths.  Live connections,
through source NAT and through a forwarded port, go through a death and through planned
switches; what was sent is compared with what arrived.
"""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.lab import Lab, inside, run, run_in, stop, sysctl

pytestmark = pytest.mark.interop

PROJECT = Path(__file__).resolve().parents[2]
SYNCD = Path(sys.executable).with_name("syncd")
PATIENCE_S = 20.0

CLIENT, SERVER = "192.168.101.10", "203.0.113.10"
INSIDE, OUTSIDE = "192.168.101.1", "203.0.113.1"
STALE = (
    ("eth0", f"{INSIDE}/24"),
    ("eth0", "2001:db8:1::1/64"),
    ("eth1", f"{OUTSIDE}/24"),
    ("eth1", "2001:db8:2::1/64"),
)

RULES = f"""
table inet firewall {{
  chain sync {{ type filter hook prerouting priority raw; iifname "eth2" notrack; }}
  chain sync_out {{ type filter hook output priority raw; oifname "eth2" notrack; }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname {{ "lo", "eth2" }} accept
    ip protocol vrrp accept
    meta l4proto ipv6-icmp accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter name strange drop
    ct state established accept
    tcp flags & (fin | syn | rst | ack) != syn counter name strange drop
    iifname "eth0" tcp dport 5001 accept
    iifname "eth1" ct status dnat accept
  }}
  counter strange {{ }}
  chain ports {{
    type nat hook prerouting priority dstnat;
    iifname "eth1" ip daddr {OUTSIDE} tcp dport 8443 dnat ip to {CLIENT}:443
  }}
  chain hidden {{
    type nat hook postrouting priority srcnat;
    oifname "eth1" ip saddr {CLIENT} snat ip to {OUTSIDE} fully-random
  }}
}}
"""

CONFIGURATION = """
[node]
name = "{name}"
[control]
socket = "{directory}/syncd.sock"
[[link]]
type = "multicast"
interface = "eth2"
group = "225.0.0.50"
[security]
key_file = "{keys}"
"""

# What keepalived calls: the project's script, with this test's paths.
CALLED = """\
#!/bin/sh
SYNCD={directory}/syncd SYNCD_FAILOVER_LOCK={directory}/lock
export SYNCD SYNCD_FAILOVER_LOCK
{script} "$@" 2>>{directory}/failover.log
"""
SLOW_SYNCD = """\
#!/bin/sh
sleep {delay}
exec {syncd} "$@"
"""


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root (network namespaces); run it with sudo"
    absent = [
        p for p in ("ip", "nft", "conntrack", "keepalived") if shutil.which(p) is None
    ]
    return f"needs the programs {', '.join(absent)}" if absent else ""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Namespaces that are gone after the test; skips aloud where there are none."""
    if missing := _missing():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Lab("keepalived") as made:
        yield made


class Firewall:
    """One node: namespace, rules, closed gate, syncd, keepalived."""

    def __init__(self, lab: Lab, number: int, switch: str, directory: Path) -> None:
        self.name = f"fw{number}"
        self.lab = lab
        self.namespace = lab.namespace(self.name)
        self.directory = directory / self.name
        self.directory.mkdir()
        self._switch = switch
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for interface, bridge in (("eth0", "inside"), ("eth1", "outside")):
            lab.plug(self.namespace, interface, switch, bridge)
        lab.address(self.namespace, "eth0", f"192.168.101.{number + 1}/24")
        lab.address(self.namespace, "eth1", f"203.0.113.{number + 1}/24")
        for name, value in (("ip_forward", 1), ("conf/all/rp_filter", 0)):
            sysctl(self.namespace, f"net/ipv4/{name}", value)
        for name in ("be_liberal", "loose"):
            sysctl(self.namespace, f"net/netfilter/nf_conntrack_tcp_{name}", 0)
        lab.rules(self.namespace, RULES)

    def write(self, number: int, delay: float) -> None:
        """Write all files; `delay` holds every syncd-failover back."""
        directory, keys = self.directory, self.directory.parent / "keys"
        if not keys.exists():
            run(str(SYNCD), "keygen", "--key-file", str(keys))
        (directory / "syncd.toml").write_text(
            CONFIGURATION.format(name=self.name, directory=directory, keys=keys)
        )
        script = PROJECT / "scripts" / "syncd-failover"
        for name, text in (
            ("syncd", SLOW_SYNCD.format(delay=delay, syncd=SYNCD)),
            ("called", CALLED.format(directory=directory, script=script)),
        ):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        shipped = PROJECT / "conf" / "keepalived"
        text = (shipped / f"keepalived-fw{number}.conf").read_text()
        for path, here in (
            ("/usr/sbin/syncd-failover", directory / "called"),
            ("/etc/syncd/syncd.toml", directory / "syncd.toml"),
            ("/etc/syncd/gate.nft", directory / "gate.nft"),
        ):
            assert path in text
            text = text.replace(path, str(here))
        (directory / "keepalived.conf").write_text(text)
        (directory / "gate.nft").write_text((shipped / "gate.nft").read_text())

    def boot(self) -> None:
        """Close the gate and start the daemon."""
        run_in(self.namespace, "nft", "-f", str(self.directory / "gate.nft"))
        command = ("run", "--config", str(self.directory / "syncd.toml"))
        self._start("syncd", str(SYNCD), *command)

    def start_keepalived(self) -> None:
        """Start keepalived in the foreground, with files of its own."""
        files = [str(self.directory / f) for f in ("keepalived.conf", "pid", "vrrp")]
        options = (
            "-n",
            "-l",
            "-D",
            "-P",
            "-f",
            files[0],
            "-p",
            files[1],
            "-r",
            files[2],
        )
        self._start("keepalived", "keepalived", *options)

    def status(self) -> dict[str, object]:
        """What `syncd status` says; nothing while no daemon answers."""
        path = self.directory / "syncd.sock"
        command = (str(SYNCD), "status", "--json", "--socket", str(path))
        done = subprocess.run(command, capture_output=True, check=False)
        status: dict[str, object] = (
            json.loads(done.stdout) if not done.returncode else {}
        )
        return status

    def in_step(self) -> bool:
        """Is the peer known and in step?"""
        peers = self.status().get("peers")
        return isinstance(peers, list) and [p["state"] for p in peers] == ["in-step"]

    def is_primary(self) -> bool:
        """Has this node the addresses, an open gate and the role?"""
        addresses = run_in(self.namespace, "ip", "-brief", "address")
        tables = run_in(self.namespace, "nft", "list", "tables")
        return (
            f" {INSIDE}/" in addresses
            and f" {OUTSIDE}/" in addresses
            and "syncd_gate" not in tables
            and self.status().get("role") == "primary"
        )

    def die(self) -> None:
        """Kill everything without a last word and cut the cables."""
        parent = self._running["keepalived"]
        parent.send_signal(signal.SIGSTOP)  # it would start its child anew
        os.kill(int((self.directory / "vrrp").read_text()), signal.SIGKILL)
        for child in self._running.values():
            child.kill()
            child.wait()
        for interface in ("eth0", "eth1", "eth2"):
            self.lab.link(self.namespace, interface, "down")

    def reboot(self) -> None:
        """Come back with cables; addresses, flows and pid files did not survive."""
        for name in ("pid", "vrrp"):
            (self.directory / name).unlink(missing_ok=True)
        for interface, address in STALE:
            command = ("ip", "-n", self.namespace, "address", "del", address)
            subprocess.run(
                [*command, "dev", interface], capture_output=True, check=False
            )
        run_in(self.namespace, "conntrack", "-F")
        for interface in ("eth0", "eth1", "eth2"):
            self.lab.link(self.namespace, interface, "up")
        self.boot()

    def hand_over(self) -> None:
        """The planned switch of docs/failover.md."""
        gate = str(self.directory / "gate.nft")
        command = (str(self.directory / "called"), "--gate", gate)
        run_in(self.namespace, *command, "backup", str(self.directory / "syncd.toml"))
        stop(self._running["keepalived"])

    def dropped(self) -> int:
        """Packets that the ruleset found strange: none, if state came first."""
        listed = json.loads(run_in(self.namespace, "nft", "-j", "list", "counters"))
        return sum(
            e["counter"]["packets"] for e in listed["nftables"] if "counter" in e
        )

    def story(self) -> str:
        """All logs, for a failure."""
        names = ("syncd.log", "keepalived.log", "failover.log")
        paths = [self.directory / name for name in names]
        return "\n".join(f"{p}:\n{p.read_text()}" for p in paths if p.exists())

    def _start(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._running[name] = self.lab.start(
                self.namespace, *command, output=log.fileno()
            )


class Cluster:
    """Client, two firewalls, server."""

    def __init__(self, lab: Lab, directory: Path, delay: float) -> None:
        switch = lab.namespace("switch")
        for bridge in ("inside", "outside"):
            lab.bridge(switch, bridge)
        self.client, self.server = lab.namespace("client"), lab.namespace("server")
        lab.plug(self.client, "eth0", switch, "inside")
        lab.plug(self.server, "eth0", switch, "outside")
        lab.address(self.client, "eth0", f"{CLIENT}/24")
        lab.address(self.server, "eth0", f"{SERVER}/24")
        run_in(self.client, "ip", "route", "add", "default", "via", INSIDE)
        self.firewalls = [Firewall(lab, n, switch, directory) for n in (1, 2)]
        first, second = self.firewalls
        lab.cable(first.namespace, "eth2", second.namespace, "eth2")
        for number, firewall in enumerate(self.firewalls, 1):
            lab.address(firewall.namespace, "eth2", f"10.255.0.{number}/30")
            firewall.write(number, delay)

    async def start(self) -> tuple[Firewall, Firewall]:
        """Start the daemons, then keepalived, the first node first."""
        first, second = self.firewalls
        for firewall in self.firewalls:
            firewall.boot()
        await self.until(lambda: first.in_step() and second.in_step(), "in step")
        first.start_keepalived()
        await self.until(first.is_primary, "fw1 primary")
        second.start_keepalived()
        return first, second

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                stories = "\n".join(f.story() for f in self.firewalls)
                pytest.fail(f"waited in vain: {what}\n{stories}")
            await asyncio.sleep(0.1)


class Wire:
    """One end of a TCP connection: sends random bytes on a beat, digests what comes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.count = 0
        self._last = asyncio.Event()
        self._tasks = [asyncio.create_task(t) for t in (self._send(), self._receive())]

    async def close(self) -> None:
        """End the own direction, wait for the end of the other one."""
        self._last.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)
        self._sock.close()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._last.is_set():
            data = os.urandom(4096)
            await loop.sock_sendall(self._sock, data)
            self.sent.update(data)
            await asyncio.sleep(0.01)
        self._sock.shutdown(socket.SHUT_WR)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._sock, 65536):
            self.received.update(data)
            self.count += len(data)


async def connect(
    source: str, address: tuple[str, int], target: str, local: tuple[str, int]
) -> tuple[Wire, Wire]:
    """Open a connection from one namespace to a listener in another one."""
    loop = asyncio.get_running_loop()
    with inside(target):
        listener = socket.create_server(local)
    with inside(source):
        caller = socket.socket()
    for sock in (listener, caller):
        sock.settimeout(0)
    async with asyncio.timeout(PATIENCE_S):
        await loop.sock_connect(caller, address)
        accepted, _ = await loop.sock_accept(listener)
    listener.close()
    return Wire(caller), Wire(accepted)


async def all_move(wires: list[Wire]) -> bool:
    """Does new data arrive at each end, within the retransmission of a short outage?"""
    before = [wire.count for wire in wires]
    for _ in range(100):
        await asyncio.sleep(0.1)
        if all(w.count > b + 20_000 for w, b in zip(wires, before, strict=True)):
            return True
    return False


@pytest.mark.asyncio
@pytest.mark.parametrize("delay", [0.0, 0.5], ids=["at once", "script held back"])
async def test_connections_live_through_a_death_and_planned_switches(
    lab: Lab, tmp_path: Path, delay: float
) -> None:
    cluster = Cluster(lab, tmp_path, delay)
    first, second = await cluster.start()
    out = await connect(cluster.client, (SERVER, 5001), cluster.server, (SERVER, 5001))
    into = await connect(cluster.server, (OUTSIDE, 8443), cluster.client, (CLIENT, 443))
    wires = [*out, *into]
    assert await all_move(wires), first.story()

    first.die()
    await cluster.until(second.is_primary, "fw2 primary after fw1's death")
    assert await all_move(wires), second.story()

    first.reboot()
    await cluster.until(lambda: first.in_step() and second.in_step(), "in step again")
    first.start_keepalived()
    await asyncio.sleep(1.0)
    assert second.is_primary(), "nopreempt: the one that returns stays the backup"

    for old, new in ((second, first), (first, second)):
        old.hand_over()
        await cluster.until(
            new.is_primary, f"{new.name} primary after a planned switch"
        )
        assert await all_move(wires), new.story()
        old.start_keepalived()
        await cluster.until(
            lambda: first.in_step() and second.in_step(), "in step after a switch"
        )

    await asyncio.gather(*(wire.close() for wire in wires))
    for one, other in (out, into):
        assert one.sent.digest() == other.received.digest()
        assert other.sent.digest() == one.received.digest()
    assert [first.dropped(), second.dropped()] == [0, 0]
