"""Who watches the tables of real daemons sees what truly changes, and is waited for by
nobody.
"""

import json
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import mixture
from tests.kernel.cluster import SYNCD, Cluster, Node
from tests.kernel.populace import Populace
from tests.lab import Lab, run_in, stop

pytestmark = pytest.mark.kernel

_PATIENCE_S = 20.0
_PAUSE_S = 0.05  # two changes of a flow do not become one on the way
_SUMMARY = " events have been shown."


class Watcher:
    """One `syncd watch` of a node."""

    def __init__(self, node: Node, directory: Path, *words: str) -> None:
        self.node = node
        before = len(node.status()["watchers"])
        self._files = [directory / f"{node.name}-{before}-{end}" for end in ("o", "e")]
        with self._files[0].open("wb") as output, self._files[1].open("wb") as errors:
            self.child = subprocess.Popen(
                [str(SYNCD), "watch", *words, "--socket", str(node.socket)],
                stdout=output,
                stderr=errors,
            )
        node.wait(lambda status: len(status["watchers"]) > before, "it is watched")

    def lines(self) -> list[str]:
        return self._files[0].read_text().splitlines()

    def errors(self) -> list[str]:
        return self._files[1].read_text().splitlines()

    def end(self) -> list[str]:
        """End it; what it has printed."""
        self.child.terminate()
        assert self.child.wait(_PATIENCE_S) == 0
        assert [line.endswith(_SUMMARY) for line in self.errors()] == [True]
        return self.lines()


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(lab, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


def rows(node: Node, *words: str) -> list[str]:
    done = node.command("show", *words)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def by_flow(lines: list[str]) -> dict[str, list[str]]:
    """The events of each flow in their order; the clocks of two nodes differ."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        event = json.loads(line)
        event.pop("peer", None)
        tuple_ = json.dumps([event["protocol"], event["orig"]], sort_keys=True)
        found[tuple_].append(json.dumps(event, sort_keys=True))
    return found


def replayed(lines: list[str]) -> list[str]:
    """The table that these events leave behind."""
    table: dict[str, str] = {}
    for line in lines:
        event = json.loads(line)
        happened = event.pop("event")
        zone = event.get("zone"), event["orig"].get("zone")
        key = json.dumps([event["protocol_number"], event["orig"], zone])
        assert (key in table) == (happened != "new"), line
        if happened == "destroy":
            del table[key]
        else:
            table[key] = json.dumps(event, separators=(",", ":"))
    return sorted(table.values())


def test_the_peers_table_changes_as_the_primarys_own(
    lab: Lab, pair: Cluster, tmp_path: Path
) -> None:
    first, second = pair.nodes
    roads = mixture.Roads(lab, first.namespace)
    try:
        own = Watcher(first, tmp_path, "--table", "own", "--json")
        copy = Watcher(second, tmp_path, "--peer", "fw1", "--json")
        udp = Watcher(
            second, tmp_path, "--table", "peer", "-e", "new", "--proto", "udp"
        )
        played = mixture.talks(150)
        for number in range(max(len(talk.kind.steps) for talk in played)):
            for talk in played:
                if number < len(talk.kind.steps):
                    mixture.say(roads, talk, number)
            time.sleep(_PAUSE_S)
            if number == 0:
                mixture.learn(first.namespace, played)
        time.sleep(_PAUSE_S)
        run_in(first.namespace, "conntrack", "-D", "-p", "udp")
        time.sleep(10 * _PAUSE_S)
        told, heard, seen = own.end(), copy.end(), udp.end()
    finally:
        roads.close()
    assert len(told) > 400
    assert {json.loads(line)["event"] for line in told} == {"new", "update", "destroy"}
    assert by_flow(heard) == by_flow(told)
    assert replayed(told) == rows(first, "--json")
    assert replayed(heard) == rows(second, "--json", "--peer", "fw1")
    news = [event for event in map(json.loads, heard) if event["event"] == "new"]
    assert len(seen) == sum(event["protocol"] == "udp" for event in news) > 10
    assert all(line.startswith("    [NEW] udp      17 ") for line in seen)
    assert second.status()["watchers"] == []


def follows(watcher: Watcher, *words: str) -> None:
    """What it has seen leaves behind the table that is there, in a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        there = [json.loads(line) for line in rows(watcher.node, "--json", *words)]
        seen = [json.loads(line) for line in replayed(watcher.lines())]
        for row in (*there, *seen):
            row.pop("peer", None)
        if sorted(map(str, seen)) == sorted(map(str, there)):
            return
        assert time.monotonic() < deadline, (len(seen), len(there))
        time.sleep(_PAUSE_S)


def test_resyncs_flushes_and_restarts_show_what_truly_changes(
    pair: Cluster, tmp_path: Path
) -> None:
    first, second = pair.nodes
    copy = Watcher(second, tmp_path, "--table", "peer", "--json")
    own = Watcher(second, tmp_path, "--table", "own", "--json")
    populace = Populace(first.namespace, 3)
    try:
        populace.add(300)
        follows(copy, "--table", "peer")
        before = len(copy.lines())
        assert before > 100
        assert second.ask("resync", "pull")["ok"]
        assert first.ask("resync", "kernel")["ok"]
        assert len(copy.lines()) == before  # nothing is otherwise than it was
        flushed = second.ask("flush", "peer")["flushed"]
        follows(copy, "--table", "peer")
        assert len(copy.lines()) == before + flushed
        assert second.ask("resync", "pull")["ok"]
        second.ask("commit")
        follows(copy, "--table", "peer")
        follows(own)
        first.kill()
        populace.add(50)
        first.start()
        first.wait_in_step(1)
        follows(copy, "--table", "peer")
        second.ask("flush", "kernel")
        follows(own)
    finally:
        populace.close()
    copy.end()
    own.end()


def test_a_watcher_that_stands_still_costs_the_daemon_nothing(
    pair: Cluster, tmp_path: Path
) -> None:
    node = pair.nodes[0]
    still = Watcher(node, tmp_path, "--table", "own")
    quick = Watcher(node, tmp_path, "--table", "own", "--count", "20000")
    still.child.send_signal(signal.SIGSTOP)
    populace = Populace(node.namespace, 1)
    try:
        while quick.child.poll() is None:
            populace.add(4000)
            run_in(node.namespace, "conntrack", "-F")
    finally:
        populace.close()
    assert len(quick.lines()) == 20_000
    (row,) = node.status()["watchers"]
    assert row["dropped"] > 0
    assert row["waiting"] == 16384
    still.child.send_signal(signal.SIGCONT)
    node.wait(lambda status: status["watchers"][0]["waiting"] == 0, "it has read")
    deadline = time.monotonic() + _PATIENCE_S
    while not still.errors() and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    (warning,) = still.errors()
    assert "changes were lost, they came faster than they were read" in warning
    still.child.terminate()
    assert still.child.wait(_PATIENCE_S) == 0
    assert len(still.lines()) >= 16384


def test_what_ends_a_watch(pair: Cluster, tmp_path: Path) -> None:
    node = pair.nodes[0]
    left = subprocess.Popen(
        [str(SYNCD), "watch", "--table", "own", "--socket", str(node.socket)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    node.wait(lambda status: len(status["watchers"]) == 1, "it is watched")
    assert left.stdout is not None
    assert left.stderr is not None
    left.stdout.close()  # nothing happens meanwhile
    assert left.wait(_PATIENCE_S) == 141
    assert left.stderr.read() == b""
    left.stderr.close()
    node.wait(lambda status: status["watchers"] == [], "it is forgotten")
    done = node.command("watch", "--peer", "fw9")
    assert done.returncode == 1
    assert done.stderr == "syncd: no peer is called fw9; known: fw2\n"
    done = node.command("watch", "--table", "own", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (0, "")
    still = Watcher(node, tmp_path, "--table", "own")
    still.child.send_signal(signal.SIGSTOP)
    reader = Watcher(node, tmp_path, "--table", "peer", "expectations")
    begin = time.monotonic()
    assert node.command("stop").returncode == 0
    assert time.monotonic() - begin < 2
    assert reader.child.wait(_PATIENCE_S) == 3
    assert reader.errors() == ["syncd: the daemon has stopped: the watch is over"]
    still.child.send_signal(signal.SIGCONT)
    assert still.child.wait(_PATIENCE_S) == 3
    stop(still.child)
