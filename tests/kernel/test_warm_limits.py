"""Warm standbys at their limits: lost events, no room, flows in the way, masks.

Real daemons, real packets, and the independent reader as the judge.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import cluster, fillers, mixture, reader, wire
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.kernel.mixture import CLIENT_SIDE, Roads
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

FLOWS = int(os.environ.get("SYNCD_TEST_WARM_FLOWS", "3000"))
BUSY = 3000  # flows of the load beside them
PATIENCE_S = 15.0 + FLOWS / 5000
WARM = '[replication]\nstandby = "kernel"\nwarm_timeout_s = 300\n'
SMALL = WARM + '[kernel]\nreceive_buffer = "64 KiB"\naudit_interval_s = 0\n'
ROOM = 200


@contextmanager
def _pair(
    lab: Lab, directory: Path, more: str, *, both: bool = True
) -> Iterator[tuple[Node, Node, list[Roads]]]:
    """Two nodes in step, and roads through them; are both warm?"""
    made = Cluster(lab, directory, more=more)
    first, second = made.nodes
    if not both:
        first.more = more.replace('"kernel"', '"table"')
        first.configure(cluster.OPEN)
    roads = [Roads(lab, node.namespace, f"far-{node.name}") for node in made.nodes]
    try:
        made.start()
        yield first, second, roads
    finally:
        made.close()
        for road in roads:
            road.close()


def _datagrams(roads: Roads, net: int, count: int, traffic_class: int = 0) -> None:
    """One datagram of each of so many flows from 10.(net).0.0 and on."""
    mac = roads.macs[CLIENT_SIDE]
    for index in range(count):
        source = f"10.{net + index // 62500}.{index // 250 % 250}.{index % 250 + 1}"
        ends = (17, source, "172.20.1.1", 1024 + index % 50000, 53, 0)
        roads.put(CLIENT_SIDE, mixture.frame(mac, ends, _udp, traffic_class))


def _udp(ends: tuple[int, ...]) -> bytes:
    return wire.udp(ends[0], ends[1])


def _warm(node: Node) -> dict[str, Any]:
    warm: dict[str, Any] = node.status()["warm"]
    return warm


def _wait(good: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not good():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _wait_until_alike(first: Node, second: Node) -> float:
    """Both kernels hold the same flows; after how long."""
    begin = time.monotonic()
    while True:
        asked = time.monotonic() - begin
        wrong = reader.differences(first.kernel(), second.kernel(), reader.as_committed)
        if not wrong:
            return asked
        if asked > PATIENCE_S:
            pytest.fail(
                f"{len(wrong)} differences after {asked:.1f} s: {wrong[:4]}\n"
                f"{_warm(first)}\n{_warm(second)}\n{second.log}"
            )
        time.sleep(0.05)


def _own(node: Node) -> int:
    flows: int = node.status()["tables"]["own"]["flows"]
    return flows


def _lost(node: Node) -> int:
    lost: int = node.status()["kernel"]["lost_events"]
    return lost


def test_what_a_primary_missed_is_in_the_standbys_kernel_soon_after(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _pair(lab, tmp_path, SMALL) as (first, second, roads):
        _datagrams(roads[0], 30, FLOWS)
        _wait_until_alike(first, second)
        load = Churn(roads[0], first.namespace, BUSY)
        try:
            load.run(
                4000.0,
                3.0,
                (1.0, lambda: first.send_signal(signal.SIGSTOP)),
                (2.0, lambda: first.send_signal(signal.SIGCONT)),
            )
        finally:
            load.close()
        after_s = _wait_until_alike(first, second)
        assert _lost(first) > 0
        assert _own(second) == 0, second.log
        assert first.status()["tables"]["peer"]["flows"] == 0
        # All of it ends while nobody hears it.
        first.send_signal(signal.SIGSTOP)
        run_in(first.namespace, "conntrack", "-F")
        first.send_signal(signal.SIGCONT)
        ended_s = _wait_until_alike(first, second)
        assert not second.kernel()
        with capsys.disabled():
            print(
                f"\n {FLOWS} flows, primary lost {_lost(first)} events: alike after "
                f"{after_s:.2f} s; all ended unheard: gone after {ended_s:.2f} s"
            )


def test_what_a_standby_missed_in_its_own_kernel_is_put_right(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _pair(lab, tmp_path, SMALL) as (first, second, roads):
        _datagrams(roads[0], 30, FLOWS)
        _wait_until_alike(first, second)
        load = Churn(roads[0], first.namespace, BUSY)

        def _unheard() -> None:
            second.send_signal(signal.SIGSTOP)
            copies = reader.dump(second.namespace)
            reader.delete_flows(second.namespace, copies[: len(copies) // 2])
            # Copies that are left, and some that are not: packets of both came here.
            _datagrams(roads[1], 30, FLOWS // 10, mixture.MARK_CLASS)
            _datagrams(roads[1], 60, FLOWS // 3)

        try:
            load.run(
                4000.0,
                3.0,
                (1.0, _unheard),
                (2.0, lambda: second.send_signal(signal.SIGCONT)),
            )
        finally:
            load.close()
        begin = time.monotonic()
        _wait(lambda: _lost(second) > 0, "events were lost")
        _wait(lambda: _own(second) >= FLOWS // 3, "what began here is own")
        _wait(
            lambda: not _missing(first, second) and not _missing(second, first),
            "both hold all",
        )
        after_s = time.monotonic() - begin
        own = second.table("own")
        # Those of 10.30 got a packet, the churn's none.
        assert not [key for key in own if not _is_visited(key)]
        _wait(
            lambda: first.table("peer").keys() == second.table("own").keys(),
            "what is own is told, and nothing else",
        )
        verified = second.ask("verify")["kernel"]
        assert verified["complete"]
        assert not verified["different"], verified
        # By their timers it has found the copies that met packets.
        assert _own(second) == FLOWS // 3 + FLOWS // 10
        with capsys.disabled():
            print(
                f"\n {FLOWS} flows, standby lost {_lost(second)} events: alike after "
                f"{after_s:.2f} s, {len(own)} own, {_own(second)} after verify"
            )


def _is_visited(key: reader.Key) -> bool:
    ends = key[0]
    return isinstance(ends, tuple) and ends[1].startswith(("10.3", "10.6"))


def _missing(source: Node, copy: Node) -> set[reader.Key]:
    return source.kernel().keys() - copy.kernel().keys()


def _room(node: Node) -> tuple[int, int]:
    """How many copies the kernel has no room for, as status says it; the counts."""
    failed = _warm(node)["failed"]
    return failed.get("table full", 0), sum(failed.values())


@pytest.mark.xdist_group("table limit")
def test_copies_leave_room_and_the_rest_is_written_when_there_is_some(
    lab: Lab, tmp_path: Path
) -> None:
    with _pair(lab, tmp_path, WARM + fillers.IGNORED) as (first, second, roads):
        limit = fillers.fill(second.namespace, ROOM, 0.95)
        time.sleep(1.5)  # it looks at its table once a second
        mixture.play(roads[0], first.namespace, mixture.talks(500))
        count = len(first.kernel())
        status = second.wait(
            lambda status: (
                status["warm"]["failed"].get("table full") == count - ROOM
                and not status["ready"]
            ),
            "it says so",
        )
        lacking = f"this kernel's table has no room for {count - ROOM} copies"
        assert status["lacking"] == lacking
        assert status["warm"]["planted"] == ROOM
        used = len(reader.dump(second.namespace))
        assert limit * 0.94 < used <= limit * 0.95, (used, limit)
        fillers.drain(second.namespace, 2 * count)
        second.wait(lambda status: status["warm"]["planted"] == count, "all is written")
        status = second.wait(lambda status: status["ready"], "it is ready")
        assert status["warm"]["failed"] == {}
        found = dict(
            reader.flow_row(message)
            for message in reader.dump(second.namespace)
            if not fillers.is_filler(message)
        )
        assert not reader.differences(first.kernel(), found, reader.as_committed)


def _insert(node: Node, mark: int, *ends: str) -> None:
    """A flow by a program: `ends` are source and target of both directions."""
    words: list[str] = []
    for option, end in zip(("-s", "-d", "-r", "-q"), ends, strict=True):
        words += (option, end)
    ports = ("--sport", "7000", "--dport", "53")
    back = ("--reply-port-src", "53", "--reply-port-dst", "7000")
    more = ("-p", "udp", "--timeout", "600", "--mark", str(mark))
    run_in(node.namespace, "conntrack", "-I", *more, *words, *ports, *back)


@pytest.mark.parametrize("is_known", [True, False])
def test_an_own_flow_in_the_way_of_a_copy_is_left_alone(
    lab: Lab, tmp_path: Path, is_known: bool
) -> None:
    server, hidden = "172.20.1.1", "192.168.2.77"
    with _pair(lab, tmp_path, WARM, both=False) as (first, second, _):
        if not is_known:
            second.send_signal(signal.SIGSTOP)
        # One has the original tuple of what the first node tells, one the reply tuple.
        _insert(second, 11, "10.9.0.1", server, server, hidden)
        _insert(second, 12, "10.9.0.9", server, server, "10.9.0.2")
        if is_known:
            second.wait(lambda s: s["tables"]["own"]["flows"] == 2, "they are own")
        before = second.kernel()
        assert len(before) == 2
        for source, mark in (("10.9.0.1", 1), ("10.9.0.2", 2)):
            _insert(first, mark, source, server, server, source)
        if not is_known:
            time.sleep(0.5)
            second.send_signal(signal.SIGCONT)
        status = second.wait(
            lambda s: s["tables"]["peer"]["flows"] == 2 and s["warm"]["failed"],
            "it is refused",
        )
        time.sleep(1.5)  # it is tried again
        assert not reader.differences(before, second.kernel()), second.log
        status = second.status()
        assert status["tables"]["own"]["flows"] == 2
        assert status["warm"]["failed"]["another flow in the way"] >= 1
        assert status["warm"]["planted"] == 0
        assert second.ask("verify")["kernel"]["different"] == 0
        for word in ("11", "12"):
            run_in(second.namespace, "conntrack", "-D", "-m", word)
        second.command("verify")  # who asks does not wait for the next trial
        _wait_until_alike(first, second)


@pytest.mark.parametrize(
    ("words", "mark_mask", "label_mask"),
    [
        ("mark_mask = 0xff\nlabels = false\n", 0xFF, 0),
        ('mark_mask = 0xffff00ff\nlabel_mask = "0x20"\n', 0xFFFF00FF, 1 << 5),
    ],
)
def test_copies_have_no_bits_of_marks_and_labels_but_those_of_the_masks(
    lab: Lab, tmp_path: Path, words: str, mark_mask: int, label_mask: int
) -> None:
    def masked(row: reader.Row) -> reader.Row:
        mark, labels = row["mark"], row["labels"]
        assert isinstance(mark, int)
        assert isinstance(labels, str)
        kept = int.from_bytes(bytes.fromhex(labels), "little") & label_mask
        mine = {"mark": mark & mark_mask, "labels": kept.to_bytes(16, "little").hex()}
        return row | mine

    def wrong() -> list[str]:
        wanted = {key: masked(row) for key, row in first.kernel().items()}
        return reader.differences(wanted, second.kernel(), reader.as_committed)

    def set_marks(node: Node, mark: str) -> None:
        words = ("conntrack", "-U", "-p", "udp", "-s", "10.30.0.0/16", "-m", mark)
        try:
            run_in(node.namespace, *words)
        except RuntimeError:  # the tool gives up when flows change beneath it
            run_in(node.namespace, *words)

    def written() -> int:
        counts = _warm(second)
        return int(counts["created"] + counts["updated"] + counts["repaired"])

    with _pair(lab, tmp_path, WARM + "[commit]\n" + words) as (first, second, roads):
        mixture.play(roads[0], first.namespace, mixture.talks(200))
        _datagrams(roads[0], 30, 100)
        _wait(lambda: not wrong(), "it has all, masked")
        assert any(row["mark"] for row in second.kernel().values())
        before, events = written(), first.status()["kernel"]["events"]
        set_marks(first, "0x3500/0xff00")
        first.wait(lambda s: s["kernel"]["events"] > events, "they have changed")
        time.sleep(0.5)
        assert written() == before
        assert not wrong()
        set_marks(first, "0x55/0xff")
        _wait(lambda: not wrong(), "the bits of the mask follow")
        # What this node has set beside the mask stays, and is as good.
        set_marks(second, "0x4600/0xff00")
        set_marks(first, "0x77/0xff")
        time.sleep(0.5)
        answer = second.ask("verify")
        assert answer["ok"], answer
        assert not answer["kernel"]["different"]
        marks = [row["mark"] for row in second.kernel().values()]
        assert [int(str(mark)) & 0xFFFF for mark in marks].count(0x4677) == 100
