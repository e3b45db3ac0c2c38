"""A flow's or an expectation's description comes in, what a person reads goes out.

`line` is the text that `conntrack -L`, `-L -o extended` and `-L expect` of version
1.4.7 print. `matches` applies the filters of a command; they follow conntrack(8): all
that are given have to pass, addresses and ports are those of the original direction (of
an expectation: of the expected tuple). A filter's value that is not understood raises
ControlError with exit status 2.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from syncd.config import PROTOCOLS, TCP_STATES
from syncd.errors import ControlError
from syncd.flows.description import (
    DCCP_STATES,
    SCTP_STATES,
    STATUS_BITS,
    Description,
    describe,
    describe_message,
)

__all__ = [
    "FILTERS",
    "Description",
    "Filters",
    "describe",
    "describe_message",
    "line",
    "matches",
    "read_filters",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NatEnd = tuple[Network | None, int | None]

# Filter -> what its value is; the nat ones may come without a value (true).
FILTERS: Final[dict[str, str]] = {
    "family": "ipv4 or ipv6",
    "proto": "a protocol's name or number",
    "src": "an address or a network",
    "dst": "an address or a network",
    "sport": "a port from 0 to 65535",
    "dport": "a port from 0 to 65535",
    "state": "a state of TCP, SCTP or DCCP such as ESTABLISHED",
    "mark": "VALUE or VALUE/MASK",
    "zone": "a zone from 0 to 65535",
    "label": "bits of labels from 0 to 127, separated by commas",
    "status": "bits of the status such as ASSURED, separated by commas",
    "any-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
    "src-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
    "dst-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
}
# The names people use for the kernel's bits.
_STATUS_NAMES: Final = {"SNAT": "SRC_NAT", "DNAT": "DST_NAT"}
_STATES: Final = frozenset((*TCP_STATES, *SCTP_STATES, *DCCP_STATES))
_STATE_NAMES: Final = {"CLOSED": ("CLOSED", "CLOSE"), "LISTEN": ("SYN_SENT2",)}


@dataclass(frozen=True, slots=True)
class Filters:
    """What a flow or an expectation has to be; None asks for nothing."""

    family: str | None = None
    protocol: int | None = None
    src: Network | None = None
    dst: Network | None = None
    sport: int | None = None
    dport: int | None = None
    states: tuple[str, ...] | None = None
    mark: tuple[int, int] | None = None  # Value and mask.
    zone: int | None = None
    labels: frozenset[int] | None = None  # All of them are set.
    status: frozenset[str] | None = None  # All of them are set.
    any_nat: _NatEnd | None = None
    src_nat: _NatEnd | None = None
    dst_nat: _NatEnd | None = None


def line(
    description: Mapping[str, object],
    extended: bool = False,
    *,
    ident: bool = False,
    now_s: int | None = None,
) -> str:
    """The text of `conntrack -L`; `ident` is `-o id`, `now_s` gives delta-time."""
    if description.get("kind") == "expectation":
        return _expectation_line(description)
    return _flow_line(description, extended, ident, now_s)


def read_filters(options: Mapping[str, object]) -> Filters | None:
    """Filters out of a command's options; None if there are none."""
    given = {name: options[name] for name in FILTERS if options.get(name) is not None}
    if not given:
        return None
    try:
        return Filters(
            family=_family(given.get("family")),
            protocol=_protocol(given.get("proto")),
            src=_network(given.get("src"), "src"),
            dst=_network(given.get("dst"), "dst"),
            sport=_number(given.get("sport"), "sport"),
            dport=_number(given.get("dport"), "dport"),
            states=_states(given.get("state")),
            mark=_mark(given.get("mark")),
            zone=_number(given.get("zone"), "zone"),
            labels=_labels(given.get("label")),
            status=_status(given.get("status")),
            any_nat=_nat_end(given.get("any-nat"), "any-nat"),
            src_nat=_nat_end(given.get("src-nat"), "src-nat"),
            dst_nat=_nat_end(given.get("dst-nat"), "dst-nat"),
        )
    except _Refusal as refusal:
        name = str(refusal)
        shown = ascii(given[name])[:60]
        problem = f"--{name}: {shown} is not {FILTERS[name]}"
        raise ControlError(problem, status=2) from refusal


def matches(description: Mapping[str, object], filters: Filters) -> bool:
    """Whether all filters pass."""
    if filters.family is not None and description["family"] != filters.family:
        return False
    number = description["protocol_number"]
    if filters.protocol is not None and number != filters.protocol:
        return False
    ends = description.get("orig", description.get("expected"))
    if not isinstance(ends, Mapping):
        return False
    return (
        (filters.sport is None or ends.get("sport") == filters.sport)
        and (filters.dport is None or ends.get("dport") == filters.dport)
        and (filters.src is None or _inside(ends["src"], filters.src))
        and (filters.dst is None or _inside(ends["dst"], filters.dst))
        and (filters.zone is None or _in_zone(description, ends, filters.zone))
        and _matches_state(description, filters)
        and _matches_nat(description, filters)
    )


def _matches_state(description: Mapping[str, object], filters: Filters) -> bool:
    if filters.states is not None and description.get("state") not in filters.states:
        return False
    if filters.mark is not None:
        value, mask = filters.mark
        mark = description.get("mark", 0)
        if not isinstance(mark, int) or mark & mask != value:
            return False
    if filters.status is not None:
        status = description.get("status", ())
        if not isinstance(status, list) or not filters.status.issubset(status):
            return False
    if filters.labels is not None:
        # Bit b is in byte b / 8 on the little endian hosts that we support.
        labels = bytes.fromhex(str(description.get("labels", "")))
        bits = int.from_bytes(labels, "little")
        return all(bits >> label & 1 for label in filters.labels)
    return True


def _matches_nat(description: Mapping[str, object], filters: Filters) -> bool:
    if filters.any_nat is filters.src_nat is filters.dst_nat is None:
        return True
    kinds, reply = description.get("nat"), description.get("reply")
    if not isinstance(kinds, list) or not isinstance(reply, Mapping):
        return False
    # Source NAT shows where replies go to, destination NAT where they come from.
    src, dst = "src" in kinds, "dst" in kinds
    source, target = (
        (reply["dst"], reply.get("dport")),
        (reply["src"], reply.get("sport")),
    )
    wanted = filters.src_nat
    if wanted is not None and not (src and _is_end(source, wanted)):
        return False
    wanted = filters.dst_nat
    if wanted is not None and not (dst and _is_end(target, wanted)):
        return False
    wanted = filters.any_nat
    return wanted is None or (
        (src and _is_end(source, wanted)) or (dst and _is_end(target, wanted))
    )


def _is_end(end: tuple[object, object], wanted: _NatEnd) -> bool:
    network, port = wanted
    return (network is None or _inside(end[0], network)) and port in (None, end[1])


def _inside(address: object, network: Network) -> bool:
    value = ipaddress.ip_address(str(address))
    return value.version == network.version and value in network


def _in_zone(
    description: Mapping[str, object], ends: Mapping[str, object], zone: int
) -> bool:
    return bool(description.get("zone", ends.get("zone", 0)) == zone)


class _Refusal(Exception):  # noqa: N818 - carries the name of a filter, no message
    """The filter of this name has a value that is not understood."""


def _family(value: object) -> str | None:
    if value in (None, "ipv4", "ipv6"):
        return None if value is None else str(value)
    raise _Refusal("family")


def _protocol(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in PROTOCOLS:
        return PROTOCOLS[value.lower()]
    return _number(value, "proto", 255)


def _number(value: object, name: str, limit: int = 65535) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) < 10 else limit + 1
    if isinstance(value, int) and value is not True and 0 <= value <= limit:
        return value
    raise _Refusal(name)


def _network(value: object, name: str) -> Network | None:
    if value is None:
        return None
    if not isinstance(value, str) or "%" in value:
        raise _Refusal(name)
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise _Refusal(name) from error


def _states(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    state = str(value).upper()
    if state not in _STATES:
        raise _Refusal("state")
    return _STATE_NAMES.get(state, (state,))


def _mark(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    text, _, mask = str(value).partition("/")
    try:
        numbers = int(text, 0), int(mask or "0xffffffff", 0)
    except ValueError as error:
        raise _Refusal("mark") from error
    if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
        raise _Refusal("mark")
    return numbers[0] & numbers[1], numbers[1]


def _labels(value: object) -> frozenset[int] | None:
    if value is None:
        return None
    found = [_number(bit, "label", 127) for bit in str(value).split(",")]
    return frozenset(bit for bit in found if bit is not None)


def _status(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    names = [name.strip().upper() for name in str(value).split(",")]
    status = frozenset(_STATUS_NAMES.get(name, name) for name in names)
    if not status.issubset(STATUS_BITS):
        raise _Refusal("status")
    return status


def _nat_end(value: object, name: str) -> _NatEnd | None:
    if value is None or value is False:
        return None
    if value is True or value == "":
        return None, None
    text, port = str(value), ""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    network = _network(text, name) if text else None
    return network, _number(port or None, name)


def _flow_line(
    flow: Mapping[str, object], extended: bool, ident: bool, now_s: int | None
) -> str:
    parts: list[str] = []
    if extended:
        family = flow["family"]
        parts.append(f"{family:<8} {2 if family == 'ipv4' else 10}")
    parts.append(f"{flow['protocol']:<8} {flow['protocol_number']}")
    parts += [str(flow[name]) for name in ("timeout", "state") if name in flow]
    counters = flow.get("counters", {})
    for side in ("orig", "reply"):
        ends = flow.get(side)
        if isinstance(ends, Mapping):
            _add_ends(parts, ends)
            if "zone" in ends:
                parts.append(f"zone-{side}={ends['zone']}")
        counter = counters.get(side) if isinstance(counters, Mapping) else None
        if isinstance(counter, Mapping) and len(counter) == 2:
            parts.append(f"packets={counter['packets']} bytes={counter['bytes']}")
        if side == "orig" and flow.get("unreplied"):
            parts.append("[UNREPLIED]")
    status = flow.get("status", ())
    if isinstance(status, list):
        for mark in ("HW_OFFLOAD", "OFFLOAD", "ASSURED"):
            if mark in status:
                parts.append(f"[{mark}]")
                break
    for name in ("mark", "secctx", "zone"):
        if name in flow:
            parts.append(f"{name}={flow[name]}")
    _add_age(parts, flow.get("timestamp"), now_s)
    for name in ("helper", "use", "id") if ident else ("helper", "use"):
        if name in flow:
            parts.append(f"{name}={flow[name]}")
    return " ".join(parts)


def _add_age(parts: list[str], times: object, now_s: int | None) -> None:
    if isinstance(times, Mapping) and "start" in times:
        stop_s = times["stop"] // 1_000_000_000 if times.get("stop") else now_s
        if stop_s is not None:
            parts.append(f"delta-time={stop_s - times['start'] // 1_000_000_000}")


def _expectation_line(expectation: Mapping[str, object]) -> str:
    parts = [str(expectation["timeout"])] if "timeout" in expectation else []
    parts.append(f"proto={expectation['protocol_number']}")
    for name, prefix in (("expected", ""), ("mask", "mask-"), ("master", "master-")):
        ends = expectation.get(name)
        if isinstance(ends, Mapping):
            _add_ends(parts, ends, prefix)
    if "zone" in expectation:
        parts.append(f"zone={expectation['zone']}")
    flags = expectation.get("flags")
    if isinstance(flags, list) and flags:
        parts.append(",".join(flags))
    names = [name for name in ("class", "helper") if name in expectation]
    parts += [f"{name}={expectation[name]}" for name in names]
    return " ".join(parts)


def _add_ends(parts: list[str], ends: Mapping[str, object], prefix: str = "") -> None:
    parts.append(f"{prefix}src={ends['src']} {prefix}dst={ends['dst']}")
    if "sport" in ends:
        parts.append(f"sport={ends['sport']} dport={ends['dport']}")
    elif "type" in ends:
        parts.append(f"type={ends['type']} code={ends['code']} id={ends['id']}")
    elif "srckey" in ends:
        parts.append(f"srckey=0x{ends['srckey']:x} dstkey=0x{ends['dstkey']:x}")
