"""How fast a full table is listed: `conntrack -L` and `syncd show --table kernel`.

In: how many flows. Out: flows a second by wall clock, us of CPU (of kernel and program
together) for each flow, and the memory of the program. The flows are written into a
network namespace that ends with the process that measures; the listing goes into
/dev/null. Run as `python -m benchmark.listing FLOWS conntrackd|syncd` it prints JSON.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from syncd.flows import nla
from syncd.kernel.requests import RequestSocket

_BATCH = 1024
_LOOK_S = 0.02
_SYNCD = str(Path(sys.executable).with_name("syncd"))
_COMMANDS = {
    "conntrackd": {
        "text": ("conntrack", "-L"),
        "xml": ("conntrack", "-L", "-o", "xml"),
        "save": ("conntrack", "-L", "-o", "save"),
        "dport": ("conntrack", "-L", "-p", "tcp", "--dport", "443"),
    },
    "syncd": {
        "text": (_SYNCD, "show", "--table", "kernel"),
        "xml": (_SYNCD, "show", "--table", "kernel", "--output", "xml"),
        "save": (_SYNCD, "show", "--table", "kernel", "--output", "save"),
        "json": (_SYNCD, "show", "--table", "kernel", "--output", "json"),
        "dport": (
            *(_SYNCD, "show", "--table", "kernel"),
            *("--proto", "tcp", "--dport", "443"),
        ),
    },
}


def main(flows: int, kind: str) -> None:
    fill(flows)
    figures: dict[str, float] = {}
    for name, command in _COMMANDS[kind].items():
        begin_s, before = time.monotonic(), os.times()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            memory_kib = _watch_memory(child)
            assert child.stderr is not None
            said = child.stderr.read()
        taken_s, after = time.monotonic() - begin_s, os.times()
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)}: {said.strip()}")
        cpu_s = after.children_user - before.children_user
        cpu_s += after.children_system - before.children_system
        figures[f"list {name}"] = flows / taken_s
        figures[f"list CPU {name}"] = cpu_s / flows * 1e6
        figures[f"list memory {name}"] = memory_kib / 1024
    print(json.dumps(figures))


def _watch_memory(child: subprocess.Popen[str]) -> int:
    """Until the program ends: the most memory it had, in KiB."""
    most = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        most = max(most, int(found[1])) if found else most
        time.sleep(_LOOK_S)
    return most


def fill(flows: int) -> None:
    """TCP flows over IPv4, two thirds of them to one port."""
    requests = RequestSocket()
    for first in range(0, flows, _BATCH):
        numbers = range(first, min(first + _BATCH, flows))
        refused = requests.send([flow(number) for number in numbers])
        if refused:
            raise RuntimeError(f"a flow was refused: {os.strerror(refused[0].errno)}")
    requests.close()


def flow(number: int) -> bytes:
    client = (0x0A000000 + (number >> 4)).to_bytes(4)
    server = bytes((192, 0, 2, number & 0xFF))
    port = (1024 + (number & 0xF) * 4000).to_bytes(2)
    service = (443 if number % 3 else 80).to_bytes(2)
    state = nla.nested(1, nla.tlv(1, b"\3"))
    body = b"\2\0\0\0" + b"".join(
        (
            _ends(1, client, server, port, service),
            _ends(2, server, client, service, port),
            nla.tlv(3, (0xE).to_bytes(4)),
            nla.tlv(7, (432000).to_bytes(4)),
            nla.tlv(8, (number & 0xFFFF).to_bytes(4)),
            nla.nested(4, state),
        )
    )
    head = (16 + len(body)).to_bytes(4, "little") + b"\0\1\1\6"
    return head + (1 + number % _BATCH).to_bytes(4, "little") + bytes(4) + body


def _ends(kind: int, source: bytes, target: bytes, sport: bytes, dport: bytes) -> bytes:
    return nla.nested(
        kind,
        nla.nested(1, nla.tlv(1, source), nla.tlv(2, target)),
        nla.nested(2, nla.tlv(1, b"\6"), nla.tlv(2, sport), nla.tlv(3, dport)),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
