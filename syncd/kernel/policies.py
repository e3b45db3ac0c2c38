"""Timeout policies and the default timeouts of each protocol, in the kernel.

In: names, protocols, seconds by state. Out: `Policy` values, and changes.
What nfct(8) sets this sees, and the other way round: both speak nfnetlink's cttimeout
(net/netfilter/nfnetlink_cttimeout.c). The rule: states have the names that nfct prints,
a state that is not named keeps its value. Objects `ct timeout` of nftables are policies
too, of a ruleset: they are only listed.
"""

import errno
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from syncd.errors import KernelError
from syncd.kernel.listing import NLM_F_ACK, NLM_F_DUMP, ask

# include/uapi/linux/netfilter/nfnetlink_cttimeout.h
_NEW, _GET, _DELETE, _DEFAULT_SET, _DEFAULT_GET = 0x800, 0x801, 0x802, 0x803, 0x804
_NAME, _L3PROTO, _L4PROTO, _DATA, _USE = 1, 2, 3, 4, 5
# include/uapi/linux/netfilter/nf_tables.h
_GET_OBJECTS, _CT_TIMEOUT = 0xA13, 7
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 1, 2, 3, 4
_OBJECT_L3PROTO, _OBJECT_L4PROTO, _OBJECT_SECONDS = 1, 2, 3
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_ATTRIBUTE: Final = struct.Struct("=HH")
_MESSAGE: Final = 20  # nlmsghdr, nfgenmsg
NAME_BYTES: Final = 31  # CTNL_TIMEOUT_NAME_MAX is 32, with the NUL
LONGEST_S: Final = 0xFFFFFFFF // 1000  # the kernel counts in jiffies of at most 1 ms

_TWO: Final = ("UNREPLIED", "REPLIED")
# Protocol -> its number, and its states: attribute 1 is the first. 255 is generic.
PROTOCOLS: Final[Mapping[str, tuple[int, tuple[str, ...]]]] = {
    "tcp": (
        6,
        (
            *("SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"),
            *("LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2", "RETRANS"),
            "UNACKNOWLEDGED",
        ),
    ),
    "udp": (17, _TWO),
    "udplite": (136, _TWO),
    "icmp": (1, ("TIMEOUT",)),
    "icmpv6": (58, ("TIMEOUT",)),
    "sctp": (
        132,
        (
            *("CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED"),
            *("SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT"),
            *("HEARTBEAT_SENT", "HEARTBEAT_ACKED"),
        ),
    ),
    "dccp": (
        33,
        (
            *("REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING"),
            "TIMEWAIT",
        ),
    ),
    "gre": (47, _TWO),
    "generic": (255, ("TIMEOUT",)),
}
_NAMES: Final = {number: name for name, (number, _) in PROTOCOLS.items()}
_GENERIC: Final = "generic"
FAMILIES: Final[Mapping[str, int]] = {"inet": 2, "inet6": 10}
_TABLE_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}  # of nftables


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds by state; a default has no name."""

    name: str
    family: int  # 2 or 10, as nfct's .l3proto
    number: int  # of the protocol, 255: generic
    seconds: Mapping[str, int]
    use: int = 0  # rules that refer to it

    @property
    def protocol(self) -> str:
        """Its name; that of one without timeouts of its own is generic."""
        return _NAMES.get(self.number, _GENERIC)


def list_policies() -> Iterator[Policy]:
    """All policies of this network namespace, as the kernel comes by them."""
    for messages in ask(_GET, NLM_F_DUMP, bytes(4), "list of timeout policies"):
        yield from map(_policy, messages)


def list_objects() -> Iterator[Policy]:
    """Objects `ct timeout` of all rulesets, named by family, table and name."""
    kind = _attribute(_OBJECT_TYPE, _CT_TIMEOUT.to_bytes(4, "big"))
    asked = "list of ct timeout objects"
    for messages in ask(_GET_OBJECTS, NLM_F_DUMP, bytes(4) + kind, asked):
        yield from map(_object, messages)


def get_policy(name: str) -> Policy:
    """One policy; KernelError with ENOENT if there is none of the name."""
    asked = f"timeout policy {name}"
    return _one(_GET, _attribute(_NAME, _text(name)), asked)


def add_policy(policy: Policy) -> None:
    """Make it; states that it does not name get the protocol's defaults."""
    _set(policy, _NLM_F_CREATE | _NLM_F_EXCL)


def change_policy(name: str, seconds: Mapping[str, int]) -> None:
    """Change some states of a policy; it may be in use."""
    there = get_policy(name)
    # A replacement sets what it does not name to the defaults: so all are named.
    merged = {**there.seconds, **seconds}
    _set(Policy(name, there.family, there.number, merged), _NLM_F_REPLACE)


def delete_policy(name: str) -> None:
    """Delete one; KernelError with EBUSY while a rule refers to it."""
    _carry_out(_DELETE, 0, _attribute(_NAME, _text(name)), f"timeout policy {name}")


def flush_policies() -> None:
    """Delete all; one that is in use is refused with EBUSY, the others are gone."""
    _carry_out(_DELETE, 0, b"", "timeout policies")


def get_default(protocol: str, family: int = 2) -> Policy:
    """What the kernel grants flows of a protocol that no policy covers.

    KernelError with EOPNOTSUPP if the kernel does not track the protocol.
    """
    number, _ = PROTOCOLS[protocol]
    asked = f"default timeouts of {protocol}"
    return _one(_DEFAULT_GET, _protocol(family, number), asked)


def set_default(protocol: str, seconds: Mapping[str, int], family: int = 2) -> None:
    """Change some states of it, for all flows that come."""
    number, states = PROTOCOLS[protocol]
    payload = _protocol(family, number) + _seconds(states, seconds)
    _carry_out(_DEFAULT_SET, 0, payload, f"default timeouts of {protocol}")


def _set(policy: Policy, flags: int) -> None:
    _, states = PROTOCOLS[policy.protocol]
    payload = (
        _attribute(_NAME, _text(policy.name))
        + _protocol(policy.family, policy.number)
        + _seconds(states, policy.seconds)
    )
    _carry_out(_NEW, flags, payload, f"timeout policy {policy.name}")


def _protocol(family: int, number: int) -> bytes:
    return _attribute(_L3PROTO, family.to_bytes(2, "big")) + _attribute(
        _L4PROTO, bytes([number])
    )


def _seconds(states: tuple[str, ...], seconds: Mapping[str, int]) -> bytes:
    members = (
        _attribute(at, seconds[state].to_bytes(4, "big"))
        for at, state in enumerate(states, 1)
        if state in seconds
    )
    return _attribute(_DATA | _NESTED, b"".join(members))


def _carry_out(kind: int, flags: int, attributes: bytes, asked: str) -> None:
    """A request that changes something; KernelError says why it was refused."""
    try:
        for _ in ask(kind, flags | NLM_F_ACK, bytes(4) + attributes, asked):
            pass
    except KernelError as error:
        raise _explain(error, asked) from error


def _one(kind: int, attributes: bytes, asked: str) -> Policy:
    try:
        for messages in ask(kind, NLM_F_ACK, bytes(4) + attributes, asked):
            for message in messages:
                return _policy(message)
    except KernelError as error:
        raise _explain(error, asked) from error
    raise KernelError(f"{asked}: no answer of the kernel", errno.EPROTO, asked)


def _explain(error: KernelError, asked: str) -> KernelError:
    """What the kernel's refusal means here."""
    reasons = {
        errno.ENOENT: "there is none of this name; syncd timeouts list shows all",
        errno.EEXIST: "it exists already; syncd timeouts set changes it",
        errno.EBUSY: "a rule refers to it; delete the rule first",
        errno.EOPNOTSUPP: "this kernel does not track the protocol, or lacks "
        "CONFIG_NF_CONNTRACK_TIMEOUT",
        errno.EINVAL: "the kernel refuses it; it may lack the module "
        "nfnetlink_cttimeout",
    }
    reason = reasons.get(error.errno)
    if reason is None:
        return error
    return KernelError(f"{asked}: {reason}", error.errno, asked)


def _policy(message: bytes) -> Policy:
    parts = dict(_walk(message, _MESSAGE, len(message)))
    number = int.from_bytes(parts.get(_L4PROTO, b""), "big")
    return Policy(
        _word(parts.get(_NAME, b"")),
        int.from_bytes(parts.get(_L3PROTO, b""), "big"),
        number,
        _by_state(number, parts.get(_DATA, b"")),
        max(int.from_bytes(parts.get(_USE, b""), "big") - 1, 0),  # the list's own
    )


def _object(message: bytes) -> Policy:
    parts = dict(_walk(message, _MESSAGE, len(message)))
    data = parts.get(_OBJECT_DATA, b"")
    told = dict(_walk(data, 0, len(data)))
    number = int.from_bytes(told.get(_OBJECT_L4PROTO, b""), "big")
    table, name = (_word(parts.get(at, b"")) for at in (_OBJECT_TABLE, _OBJECT_NAME))
    family = _TABLE_FAMILIES.get(message[16], str(message[16]))
    return Policy(
        f"{family} {table} {name}",
        int.from_bytes(told.get(_OBJECT_L3PROTO, b""), "big"),
        number,
        _by_state(number, told.get(_OBJECT_SECONDS, b"")),
    )


def _by_state(number: int, data: bytes) -> dict[str, int]:
    _, states = PROTOCOLS[_NAMES.get(number, _GENERIC)]
    members = dict(_walk(data, 0, len(data)))
    return {
        state: int.from_bytes(members[at], "big")
        for at, state in enumerate(states, 1)
        if at in members
    }


def _word(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("ascii", "replace")


def _text(name: str) -> bytes:
    return name.encode("ascii", "replace") + b"\0"


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            return
        yield kind & _TYPE_MASK, data[start + 4 : start + length]
        start += length + 3 & ~3
