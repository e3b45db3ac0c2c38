"""What reading costs: recorded messages in, ns per message of each kind out.

Run it from the root: `python -m tests.bench.bench_record`. Nothing is asserted. Every
message is a new bytes object, as from a socket, with portid 0, as from traffic.
"""

from collections import defaultdict
from functools import partial
from timeit import repeat

from syncd.flows.reader import RecordReader
from syncd.flows.record import merge, status_of, without_timeout
from tests.unit.flows.recorded import recorded, without_portid

BATCH = 500
ROUNDS = 20

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 58: "icmp", 132: "sctp"}


def main() -> None:
    """Print one line for each kind of message, and for a few readers of bodies."""
    by_kind: dict[str, list[bytes]] = defaultdict(list)
    for said in recorded():
        protocol = _PROTOCOLS.get(said.protocol, str(said.protocol))
        is_event = not said.type.endswith("DUMP")
        message = without_portid(said.message) if is_event else said.message
        by_kind[f"{said.type:11} {protocol} {said.family}"].append(message)
        by_kind[f"{said.type:11} (all)"].append(message)
    reader = RecordReader()
    for kind, messages in sorted(by_kind.items()):
        batch = [bytes(bytearray(messages[n % len(messages)])) for n in range(BATCH)]
        reader.read(batch)
        times = repeat(partial(reader.read, batch), number=ROUNDS)
        print(f"{kind:24} {min(times) / ROUNDS / BATCH * 1e9:6.0f} ns")
    walked = by_kind["UPDATE      tcp ipv4"][0]
    body = reader.read_one(walked)[2]
    single = {
        "walk": lambda: reader.read_one(walked),
        "merge": lambda: merge(body, body),
        "status_of": lambda: status_of(body),
        "without_timeout": lambda: without_timeout(body),
    }
    for name, call in single.items():
        print(f"{name:24} {min(repeat(call, number=5000)) / 5000 * 1e9:6.0f} ns")


if __name__ == "__main__":
    main()
