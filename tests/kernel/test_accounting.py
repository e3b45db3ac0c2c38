"""Accounts of real traffic: complete, with the kernel's counters, read by others.

Whoever else reads or writes the same: the kernel's own table, conntrackd in its
statistics mode, and tshark.
"""

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture
from tests.kernel.cluster import SYNCD, Cluster, Node
from tests.lab import Lab, inside, run, run_in, sysctl

pytestmark = pytest.mark.kernel

FLOWS = 600
Row = dict[str, object]
Key = tuple[object, ...]

ALONE = """
[node]
name = "{name}"
[control]
socket = "{socket}"
"""
STATISTICS = """
General {{ HashSize 8192
 HashLimit 65536
 LockFile {directory}/lock
 UNIX {{ Path {directory}/socket }}
 NetlinkBufferSize 8388608
 NetlinkBufferSizeMaxGrowth 16777216 }}
Stats {{ LogFile {directory}/statistics.log }}
"""


class Keeper(Node):
    """A daemon that replicates nothing."""

    def configure(self, _security: str) -> None:
        text = ALONE.format(name=self.name, socket=self.socket)
        self.config.write_text(text + self.more)


class Collector:
    """Takes datagrams, and lets tshark say what is in them."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.port = self._socket.getsockname()[1]
        self.datagrams: list[bytes] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        while datagram := self._socket.recv(65535):
            self.datagrams.append(datagram)

    def told(self, path: Path) -> str:
        """All that tshark prints of them."""
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
            for datagram in self.datagrams:
                size = 28 + len(datagram)
                head = struct.pack(">BBHIBBH", 0x45, 0, size, 0, 64, 17, 0)
                head += bytes((192, 0, 2, 1)) * 2
                head += struct.pack(">HHHH", 40000, 4739, size - 20, 0)
                file.write(struct.pack("<IIII", 0, 0, size, size) + head + datagram)
        return run("tshark", "-r", str(path), "-d", "udp.port==4739,cflow", "-V")

    def close(self) -> None:
        """An empty datagram is the last one."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(cluster.PATIENCE_S)
        self._socket.close()


@contextmanager
def conntrackd(namespace: str, directory: Path) -> Iterator[Path]:
    """conntrackd in its statistics mode; its log."""
    config = directory / "conntrackd.conf"
    config.write_text(STATISTICS.format(directory=directory))
    command = cluster.inside_command(namespace, "conntrackd", "-C", config)
    with (directory / "conntrackd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + cluster.PATIENCE_S
        while subprocess.run(
            [*command, "-s"], capture_output=True, check=False
        ).returncode:
            assert daemon.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield directory / "statistics.log"
    finally:
        daemon.terminate()
        daemon.wait(cluster.PATIENCE_S)


@pytest.fixture
def firewall(lab: Lab) -> Iterator[tuple[str, mixture.Roads]]:
    box = lab.namespace("fw")
    roads = mixture.Roads(lab, box)
    try:
        yield box, roads
    finally:
        roads.close()


@contextmanager
def keeping(box: str, directory: Path, *lines: str) -> Iterator[Keeper]:
    """A daemon that keeps accounts, with these lines in its table."""
    node = Keeper("fw1", box, directory, "\n".join(("[accounting]", *lines, "")))
    node.start()
    try:
        node.wait(lambda status: bool(status["ready"]), "the kernel is read")
        yield node
    finally:
        node.close()


def table(namespace: str) -> list[Row]:
    """The kernel's flows."""
    words = ("show", "flows", "--table", "kernel", "--json")
    shown = run_in(namespace, str(SYNCD), *words)
    return [json.loads(line) for line in shown.splitlines()]


def records(*files: Path) -> list[Row]:
    text = "".join(file.read_text() for file in files if file.exists())
    return [json.loads(line) for line in text.splitlines()]


def key_of(row: Row) -> Key:
    ends = json.dumps([row["orig"], row["reply"]], sort_keys=True)
    return (row["family"], row["protocol_number"], ends, row.get("zone", 0))


def end_all(former: Node, primary: Node) -> None:
    """End every flow, and let both nodes write down what is theirs to write."""
    time.sleep(1)
    run_in(primary.namespace, "conntrack", "-F")
    former.wait(lambda status: status["kernel"]["entries"] == 0, "copies are deleted")
    time.sleep(1)


def foreign(rows: list[Row]) -> dict[Key, Row]:
    """Without the way to the collector, which is tracked too."""
    return {key_of(row): row for row in rows if "127.0.0.1" not in str(row["orig"])}


def written(node: Keeper, count: int) -> Row:
    """Wait until so many records, of the first output, are in its file."""
    status = node.wait(
        lambda status: status["accounting"]["outputs"][0]["written"] >= count,
        f"{count} records",
    )
    found = status["accounting"]
    assert isinstance(found, dict)
    return found


def test_all_ends_are_recorded_with_the_kernels_counters_and_read_by_others(
    firewall: tuple[str, mixture.Roads], tmp_path: Path
) -> None:
    if absent := [one for one in ("conntrackd", "tshark") if shutil.which(one) is None]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    box, roads = firewall
    run("ip", "-n", box, "link", "set", "lo", "up")
    collector = Collector(box)
    json_path, text_path = tmp_path / "flows.json", tmp_path / "flows.log"
    lines = (
        f'json = "{json_path}"',
        f'text = "{text_path}"',
        f'ipfix = "127.0.0.1:{collector.port}"',
        "enable_kernel_accounting = true",
    )
    with (
        keeping(box, tmp_path, *lines) as node,
        conntrackd(box, tmp_path) as statistics,
    ):
        assert sysctl(box, "net.netfilter.nf_conntrack_acct") == "1"
        assert sysctl(box, "net.netfilter.nf_conntrack_timestamp") == "1"
        mixture.play(roads, box, mixture.talks(FLOWS))
        held = foreign(table(box))
        assert len(held) > FLOWS / 2
        run_in(box, "conntrack", "-F")
        written(node, len(held))
        time.sleep(1.2)  # the last datagram, conntrackd
    found = foreign(records(json_path))
    assert held.keys() <= found.keys()  # some were refused before we looked
    for key, row in held.items():
        record = found[key]
        assert str(record["status"]).replace(", 'DYING'", "") == str(row["status"])
        for name in ("counters", "mark", "helper", "labels", "master", "zone"):
            assert record.get(name) == (row.get(name) or None), name
        assert record["reason"] == "deleted", record
        assert float(str(record["start"])) <= float(str(record["end"]))
    _same_as_conntrackd(text_path, statistics)
    collector.close()
    _same_as_tshark(collector.told(tmp_path / "ipfix.pcap"), found)


def _same_as_conntrackd(ours: Path, theirs: Path) -> None:
    def lines(path: Path) -> Counter[str]:
        split = [line.split("\t", 1) for line in path.read_text().splitlines()]
        assert all(len(parts[0]) == 24 for parts in split)
        return Counter(parts[1] for parts in split if "127.0.0.1" not in parts[1])

    assert lines(ours) == lines(theirs)


def _same_as_tshark(told: str, found: dict[Key, Row]) -> None:
    for complaint in ("Malformed", "[Expert", "No template", "Unexpected", "too short"):
        assert complaint not in told, told[told.index(complaint) - 500 :][:900]
    flows = re.split(r"\n +Flow \d+\n", told)[1:]
    flows = [one for one in flows if "127.0.0.1" not in one and "SrcAddr" in one]
    assert len(flows) == len(found)
    assert _sums_said(flows) == _sums_of(found.values())


def _sums_of(rows: Iterable[Row]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in rows:
        counters = row["counters"]
        assert isinstance(counters, dict)
        for side in ("orig", "reply"):
            for what in ("packets", "bytes"):
                sums[f"{side} {what}"] += counters[side][what]
    return sums


def _sums_said(flows: Iterable[str]) -> Counter[str]:
    """As tshark names them: the reverse ones have no name of their own."""
    sums: Counter[str] = Counter()
    pattern = re.compile(r"^ +(Octets|Packets): (\d+)( \(Reverse)?", re.M)
    for name, value, reverse in pattern.findall("\n".join(flows)):
        what = "bytes" if name == "Octets" else "packets"
        sums[f"{'reply' if reverse else 'orig'} {what}"] += int(value)
    return sums


def test_a_rotation_under_load_loses_nothing(
    firewall: tuple[str, mixture.Roads], tmp_path: Path
) -> None:
    box, roads = firewall
    path = tmp_path / "flows.json"
    files = [path]
    with keeping(box, tmp_path, f'json = "{path}"') as node:
        for turn in range(4):
            mixture.play(roads, box, mixture.talks(200, turn))
            run_in(box, "conntrack", "-F")
            files.append(path.rename(tmp_path / f"flows.{turn}"))
            node.send_signal(signal.SIGHUP)
            node.wait(lambda _: path.exists(), "the file is made anew")
        node.wait(
            lambda status: (
                status["kernel"]["entries"] == 0
                and status["accounting"]["outputs"][0]["waiting"] == 0
            ),
            "all is written",
        )
        status = node.status()["accounting"]
        assert "nf_conntrack_acct is off" in node.log
        assert "sysctl -w net.netfilter.nf_conntrack_timestamp=1" in node.log
    found = records(*files)
    assert len(found) == status["outputs"][0]["written"] >= 600
    assert len({(key_of(row), row["id"]) for row in found}) == len(found)
    assert all("counters" not in row and "start" not in row for row in found)


def test_reasons_are_the_kernels(
    firewall: tuple[str, mixture.Roads], tmp_path: Path
) -> None:
    box, roads = firewall
    path = tmp_path / "flows.json"
    with keeping(box, tmp_path, f'json = "{path}"') as node:
        for name in ("udp", "udp_stream", "icmp"):
            setting = f"net.netfilter.nf_conntrack_{name}_timeout".replace(
                "udp_stream_timeout", "udp_timeout_stream"
            )
            sysctl(box, setting, 1)
        mixture.play(roads, box, mixture.talks(200))
        node.wait(
            lambda status: status["accounting"]["records"]["expired"] > 5, "expired"
        )
        done = node.command("flush", "kernel")
        assert done.returncode == 0, done
        written(node, 150)
    reasons = {str(row["reason"]) for row in records(path)}
    assert (
        {"expired", "deleted"} <= reasons <= {"expired", "deleted", "reset", "closed"}
    )


@pytest.mark.parametrize("standby", ["table", "kernel"])
def test_in_a_cluster_one_node_records_a_flow(
    lab: Lab, tmp_path: Path, standby: str
) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("fw1", "fw2")}
    made = Cluster(lab, tmp_path, ("fw1", "fw2"))
    for node in made.nodes:
        path = files[node.name]
        more = f'[accounting]\njson = "{path}"\n[replication]\nstandby = "{standby}"\n'
        node.config.write_text(node.config.read_text() + more)
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}") for node in made.nodes
    ]
    try:
        made.start()
        first, second = made.nodes
        assert first.command("promote").returncode == 0
        mixture.play(roads[0], first.namespace, mixture.talks(200))
        run_in(first.namespace, "conntrack", "-D", "-p", "udp")
        cluster.wait_until_equal(first, second, 10.0)
        moved = first.kernel()
        assert first.command("demote").returncode == 0
        assert second.command("promote").returncode == 0
        second.wait(lambda status: not status["lacking"], "promoted")
        end_all(first, second)
    finally:
        made.close()
        for road in roads:
            road.close()
    ours, theirs = records(files["fw1"]), records(files["fw2"])
    assert ours
    assert all(row["protocol"] == "udp" or row["reason"] == "reset" for row in ours)
    keys = [key_of(row) for row in [*ours, *theirs]]
    assert len(set(keys)) == len(keys)
    taken = [row for row in theirs if row.get("taken_over")]
    assert len(taken) >= len(moved) * 0.9


def test_who_takes_over_from_a_killed_node_records_what_that_one_had(
    lab: Lab, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("fw1", "fw2")}
    made = Cluster(lab, tmp_path, ("fw1", "fw2"))
    for node in made.nodes:
        more = f'[accounting]\njson = "{files[node.name]}"\n'
        node.config.write_text(node.config.read_text() + more)
    roads = mixture.Roads(lab, made.nodes[0].namespace, "far")
    try:
        made.start()
        first, second = made.nodes
        assert first.command("promote").returncode == 0
        mixture.play(roads, first.namespace, mixture.talks(100))
        cluster.wait_until_equal(first, second, 10.0)
        moved = second.command("show", "--table", "peer", "--json").stdout
        first.kill()
        assert second.command("promote").returncode == 0
        second.wait(lambda status: not status["lacking"], "promoted")
        first.start()
        second.wait_in_step(1)
        end_all(first, second)
    finally:
        made.close()
        roads.close()
    ours, theirs = records(files["fw1"]), records(files["fw2"])
    keys = [key_of(row) for row in [*ours, *theirs]]
    assert len(set(keys)) == len(keys)
    taken = [row for row in theirs if row.get("taken_over")]
    assert len(taken) >= moved.count("\n") * 0.9
