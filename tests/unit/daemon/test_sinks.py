"""Sinks with real files and sockets: rotation, full and slow disks, lost collectors."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from syncd.daemon import sinks
from syncd.daemon.sinks import CollectorSink, FileSink
from syncd.errors import SyncdError

LONGEST_S = 10.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_RETRY_S", 0.01)
    monkeypatch.setattr(sinks, "_GATHER_S", 0.001)
    monkeypatch.setattr(sinks, "_STOP_S", 0.5)


def wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_S
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def started(path: Path, limit: int = 1 << 20) -> FileSink:
    sink = FileSink(str(path), limit)
    sink.start()
    return sink


def test_lines_are_added_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    path.write_text("before\n")
    sink = started(path)
    lines = [f"line {number}" for number in range(1000)]
    sink.put_lines(lines[:600])
    sink.put_lines(lines[600:])
    sink.close()
    assert path.read_text().splitlines() == ["before", *lines]
    assert (sink.written, sink.dropped, sink.waiting) == (1000, 0, 0)


def test_moving_the_file_and_opening_anew_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    sink = started(path)
    moved = []
    for turn in range(20):
        sink.put_lines([f"{turn}.{number}" for number in range(100)])
        moved.append(tmp_path / f"flows.{turn}")
        path.rename(moved[-1])
        sink.reopen()
        sink.put_lines([f"{turn}.{number}" for number in range(100, 200)])
        wait(path.exists)
    sink.close()
    text = "".join(file.read_text() for file in [*moved, path])
    expected = [f"{turn}.{number}" for turn in range(20) for number in range(200)]
    assert text.splitlines() == expected


def test_a_full_disk_is_said_once_counted_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "flows"
    path.symlink_to("/dev/full")
    sink = started(path, limit=2560)
    sink.put_lines(["x" * 9] * 256)
    wait(lambda: sink.failures > 3)
    sink.put_lines(["y" * 9] * 256)
    assert sink.dropped == 256
    assert "No space left on device" in sink.failing
    path.unlink()
    sink.reopen()
    wait(lambda: sink.written == 256)
    wait(lambda: not sink.failing)
    sink.close()
    assert path.read_text() == "xxxxxxxxx\n" * 256
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "No space left" in line]) == 1
    assert any("written again, 256 records were dropped" in line for line in said)


def test_a_line_is_never_torn_by_a_rotation(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "flows"), 1 << 20)
    sink.put_lines(["first", "second"])
    os.write(sink._file, b"first\nsec")  # as far as a full disk took it
    sink._offset = 9
    (tmp_path / "flows").rename(tmp_path / "flows.1")
    sink.reopen()
    sink.start()
    sink.close()
    assert (tmp_path / "flows.1").read_text() == "first\n"
    assert (tmp_path / "flows").read_text() == "second\n"


def test_a_reader_that_is_slow_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = started(path, limit=1 << 20)
    for _ in range(40):
        sink.put_lines(["z" * 199] * 256)
    wait(lambda: bool(sink.failing))
    assert sink.dropped > 0
    assert sink.written + sink.waiting + sink.dropped == 40 * 256
    os.close(reader)
    sink.close()


def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SyncdError, match=r"^accounting: .*: No such file or directory"):
        FileSink(str(tmp_path / "none" / "flows"), 1 << 20)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_reach_the_collector(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as collector:
        collector.bind((address, 0))
        collector.settimeout(LONGEST_S)
        sink = CollectorSink(address, collector.getsockname()[1], 1 << 20)
        sink.start()
        sink.put([(b"%d" % number, 2) for number in range(50)])
        assert [collector.recv(100) for _ in range(50)] == [
            b"%d" % n for n in range(50)
        ]
        sink.close()
        assert (sink.written, sink.dropped) == (100, 0)
        assert sink.message_bytes <= 1472


def test_a_collector_that_is_away_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        port = collector.getsockname()[1]
    sink = CollectorSink("127.0.0.1", port, 1 << 20)
    sink.start()
    for _ in range(20):
        sink.put([(b"x", 1)])
        time.sleep(0.002)
    wait(lambda: sink.refused)
    sink.close()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "nobody listens there" in line]) == 1
