"""What a record of an ended flow costs: conntrackd's statistics mode, and syncd.

In: how many flows. Out: us of CPU of the daemon for each flow, from its beginning (NEW)
to its record (DESTROY), and for its end alone. The daemon runs in a network namespace
that ends with the process that measures; flows come and go at a pace that both can
follow. Run as `python -m benchmark.accounting FLOWS conntrackd|syncd` it prints JSON.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from syncd.flows import restore
from syncd.flows.reader import RecordReader
from syncd.kernel.requests import RequestSocket

from benchmark.listing import flow

_SYNCD = str(Path(sys.executable).with_name("syncd"))
_SETTINGS = Path("/proc/sys/net/netfilter")
_BATCH = 256
_PACE_S = 0.02  # between two batches: some ten thousand a second
_LONGEST_S = 60.0
_LOOK_S = 0.1
_STATISTICS = """
General {{ HashSize 65536
 HashLimit 262144
 LockFile {directory}/lock
 UNIX {{ Path {directory}/socket }}
 NetlinkBufferSize 67108864
 NetlinkBufferSizeMaxGrowth 67108864 }}
Stats {{ LogFile {directory}/text }}
"""
_ACCOUNTING = """
[control]
socket = "{directory}/socket"
[kernel]
receive_buffer = "64 MiB"
audit_interval_s = 0
[accounting]
{output} = "{place}"
"""
_OUTPUTS = {
    "conntrackd": ("text",),
    "syncd": ("text", "json", "ipfix"),
}


def main(flows: int, kind: str) -> None:
    for name in ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events"):
        (_SETTINGS / name).write_text("1\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures: dict[str, float] = {}
    for output in _OUTPUTS[kind]:
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as directory:
            figures |= _turn(flows, kind, output, directory)
    print(json.dumps(figures))


def _turn(flows: int, kind: str, output: str, directory: str) -> dict[str, float]:
    file = Path(directory, output)
    config = Path(directory, "config")
    if kind == "syncd":
        place = "127.0.0.1:9" if output == "ipfix" else str(file)
        text = _ACCOUNTING.format(directory=directory, output=output, place=place)
        command = [_SYNCD, "run", "-c", str(config)]
    else:
        text = _STATISTICS.format(directory=directory)
        command = ["conntrackd", "-C", str(config)]
    config.write_text(text)
    daemon = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_idle(daemon.pid)
        before = _cpu_s(daemon.pid)
        requests = RequestSocket()
        _send(requests, [flow(number) for number in range(flows)])
        _wait_until_idle(daemon.pid)
        between = _cpu_s(daemon.pid)
        _send(requests, _deletions(flows))
        requests.close()
        _wait_until_idle(daemon.pid)
        after = _cpu_s(daemon.pid)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_LONGEST_S)
    if output != "ipfix":
        _check(file, flows)
    return {
        f"account CPU {output}": (after - before) / flows * 1e6,
        f"account CPU {output}, the end": (after - between) / flows * 1e6,
    }


def _check(file: Path, flows: int) -> None:
    with file.open("rb") as lines:
        count = sum(1 for _ in lines)
    if count != flows:
        raise RuntimeError(f"{flows} flows ended, {file.name} has {count} records")


def _deletions(flows: int) -> list[bytes]:
    reader = RecordReader()
    keys = [reader.read_one(flow(number))[1] for number in range(flows)]
    return [restore.delete(key, number) for number, key in enumerate(keys)]


def _send(requests: RequestSocket, messages: list[bytes]) -> None:
    for first in range(0, len(messages), _BATCH):
        refused = requests.send(messages[first : first + _BATCH])
        if refused:
            raise RuntimeError(f"refused: {os.strerror(refused[0].errno)}")
        time.sleep(_PACE_S)


def _cpu_s(pid: int) -> float:
    """CPU of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_until_idle(pid: int) -> None:
    """It has begun to work, and has used next to nothing for a while."""
    end = time.monotonic() + _LONGEST_S
    quiet, last = 0, -1.0
    while quiet < 20:
        now = _cpu_s(pid)
        quiet = quiet + 1 if now - last <= 0.011 else 0
        last = now
        if time.monotonic() > end:
            raise RuntimeError("the daemon does not come to rest")
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
