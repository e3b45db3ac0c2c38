"""[filter] of the configuration: a TOML table comes in, a `FilterConfig` goes out.

The rule: what each key means for a record is said in `flows/filter.py`, here stands
which words may be written. Problems are gathered by `section.py`.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from syncd.section import Section

# Names of /etc/protocols that make sense behind a conntrack entry.
PROTOCOLS: Final[dict[str, int]] = {
    "icmp": 1,
    "igmp": 2,
    "ipencap": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "ipip": 94,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}

# Names as conntrack prints and conntrackd's filter reads them (CLOSED, LISTEN).
TCP_STATES: Final[dict[str, int]] = {
    "NONE": 0,
    "SYN_SENT": 1,
    "SYN_RECV": 2,
    "ESTABLISHED": 3,
    "FIN_WAIT": 4,
    "CLOSE_WAIT": 5,
    "LAST_ACK": 6,
    "TIME_WAIT": 7,
    "CLOSE": 8,
    "CLOSED": 8,
    "SYN_SENT2": 9,
    "LISTEN": 9,
}

NAT_DIRECTIONS: Final = ("src", "dst", "any", "none")
ORIG, REPLY, BOTH = "orig", "reply", ""  # directions that a zone is of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Mark = tuple[int, int]  # value, mask
Zone = tuple[str, int]  # direction, number
_Item = TypeVar("_Item")

_WORDS: Final = 0xFFFFFFFF
_NUMBER: Final = r"0x[0-9a-fA-F]{1,8}|[0-9]{1,10}"
_MARK: Final = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?")
_ZONE: Final = re.compile(r"(?:(orig|reply):)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Choice(Generic[_Item]):
    """What passes: all that is in `accept`, if that is given, and not in `ignore`."""

    accept: tuple[_Item, ...] = ()  # empty: everything is accepted
    ignore: tuple[_Item, ...] = ()  # empty: nothing is ignored


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """Which flows are replicated; every choice that is given has to be passed."""

    protocols: Choice[int] | None = None  # Numbers of layer 4 protocols.
    addresses: Choice[Network] | None = None  # Networks of source or destination.
    tcp_states: Choice[int] | None = None  # Numbers of TCP states, as in TCP_STATES.
    marks: Choice[Mark] | None = None  # Values under their masks.
    zones: Choice[Zone] | None = None  # Zones, maybe of one direction alone.
    nat: Choice[str] | None = None  # Directions that are translated.
    min_age_s: float = 0.0  # A flow that is not assured waits for so long.
    own_addresses: str = "ignore"  # What begins or ends at this node itself.


def read_filter(section: Section) -> FilterConfig:
    """The table as it was written; what is wrong with it is noted in the section."""
    result = FilterConfig(
        protocols=_choice(
            section, "protocols", "names such as tcp or numbers", _protocol
        ),
        addresses=_choice(
            section, "addresses", "networks such as 10.0.0.0/8", _network
        ),
        tcp_states=_choice(
            section, "tcp_states", f"of {', '.join(TCP_STATES)}", _tcp_state
        ),
        marks=_choice(
            section,
            "marks",
            'marks such as 7, "0x10" or, with a mask that covers it, "0x10/0xf0"',
            _mark,
        ),
        zones=_choice(
            section, "zones", 'zones from 0 to 65535 such as 5 or "orig:5"', _zone
        ),
        nat=_choice(section, "nat", f"of {', '.join(NAT_DIRECTIONS)}", _nat),
        min_age_s=section.seconds("min_age_s", 0.0, 0, 86400),
        own_addresses=section.word("own_addresses", "ignore", ("ignore", "accept")),
    )
    section.finish()
    return result


def _choice(
    section: Section, key: str, rule: str, read: Callable[[object], _Item | None]
) -> Choice[_Item] | None:
    if key not in section:
        section.take(key)
        return None
    inner = section.section(key)
    if "accept" not in inner and "ignore" not in inner:
        section.refuse(key, "must have accept = [...] or ignore = [...]")
    choice = Choice(
        inner.items("accept", rule, read), inner.items("ignore", rule, read)
    )
    inner.finish()
    return choice


def _protocol(value: object) -> int | None:
    if isinstance(value, str):
        return PROTOCOLS.get(value.lower())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    return None


def _network(value: object) -> Network | None:
    try:
        return ipaddress.ip_network(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _tcp_state(value: object) -> int | None:
    return TCP_STATES.get(value) if isinstance(value, str) else None


def _mark(value: object) -> Mark | None:
    found = _MARK.fullmatch(_text(value))
    if found is None:
        return None
    mark, mask = (_integer(word) for word in (found[1], found[2] or str(_WORDS)))
    return None if mark > _WORDS or mask > _WORDS or mark & ~mask else (mark, mask)


def _zone(value: object) -> Zone | None:
    found = _ZONE.fullmatch(_text(value))
    if found is None or int(found[2]) > 0xFFFF:
        return None
    return found[1] or BOTH, int(found[2])


def _nat(value: object) -> str | None:
    return str(value) if value in NAT_DIRECTIONS else None


def _text(value: object) -> str:
    """A number or a string as text, else what no rule allows."""
    return (
        str(value)
        if isinstance(value, int | str) and not isinstance(value, bool)
        else ""
    )


def _integer(word: str) -> int:
    return int(word, 16) if word.startswith("0x") else int(word)
