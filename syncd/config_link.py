"""The `[[link]]` tables of a configuration.

In: the root of the parsed file. Out: one `LinkConfig` per table, in order of
preference; what is wrong is refused under `link[N]`, counted from one. The rule: a key
that belongs to another type of link is refused, never ignored.
"""

import ipaddress
from dataclasses import dataclass

from syncd.section import MIB, Section, shown

_NONE = (
    "at least one [[link]] must be given (or [accounting], for a node that only keeps "
    "accounts)"
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One way to the peers."""

    type: str = "multicast"  # Or "unicast", or "tcp".
    interface: str = ""  # Network interface that frames leave and arrive by.
    group: str = ""  # Multicast: the IPv4 or IPv6 group all nodes join.
    port: int = 3780  # UDP or TCP port, the same on all nodes.
    local: str = ""  # Unicast, tcp: the address that this node has on the link.
    peers: tuple[str, ...] = ()  # Unicast, tcp: the addresses of all others.
    receive_buffer: int = 8 * MIB  # Bytes of the receiving socket's buffer.
    send_buffer: int = 2 * MIB  # Bytes of the sending socket's buffer.


def read_links(root: Section, *, needed: bool = True) -> tuple[LinkConfig, ...]:
    """All links of a file; what is wrong with one is refused under `link[N]`."""
    value = root.take("link")
    if value is None and not needed:
        return ()
    if isinstance(value, dict):
        root.refuse("link", "is one table, must be a list of tables: write [[link]]")
        return ()
    if not isinstance(value, list) or not value:
        root.refuse("link", _NONE)
        return ()
    links: list[LinkConfig] = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict):
            root.refuse(f"link[{number}]", f"is {shown(item)}, must be a table")
            continue
        section = root.table(f"link[{number}]", item)
        link = _link(section)
        for other, earlier in enumerate(links, 1):
            if _end(earlier) == _end(link):
                root.refuse(f"link[{number}]", f"is the same as link[{other}]")
        links.append(link)
    return tuple(links)


def _end(link: LinkConfig) -> tuple[str, ...]:
    """What two links cannot share: the end that the socket is bound to."""
    return link.type, link.interface, link.group, link.local, str(link.port)


def _link(section: Section) -> LinkConfig:
    kind = section.word("type", "multicast", ("multicast", "unicast", "tcp"))
    interface = section.text(
        "interface", "", "an interface name of 1 to 15 characters", _is_interface
    )
    group, local, peers = "", "", tuple[str, ...]()
    if kind == "multicast":
        group = _group(section)
        if "interface" not in section:
            section.refuse("interface", "must be given for a multicast link")
        for key in ("local", "peers"):
            if section.take(key) is not None:
                section.refuse(key, "belongs to unicast and tcp links, remove it")
    else:
        if section.take("group") is not None:
            section.refuse("group", "belongs to multicast links, remove it")
        local, peers = _peer_ends(section, kind, interface)
    link = LinkConfig(
        type=kind,
        interface=interface,
        group=group,
        port=section.whole("port", 3780, 1, 65535),
        local=local,
        peers=peers,
        receive_buffer=section.size("receive_buffer", 8 * MIB),
        send_buffer=section.size("send_buffer", 2 * MIB),
    )
    section.finish()
    return link


def _group(section: Section) -> str:
    value = section.take("group")
    rule = 'an IPv4 or IPv6 multicast address such as "225.0.0.50" or "ff02::5c"'
    if value is None:
        section.refuse("group", f"must be given for a multicast link: {rule}")
        return ""
    address = _address(value)
    if address is None or not address.is_multicast or "%" in str(address):
        section.refuse("group", f"is {shown(value)}, must be {rule}")
        return ""
    return str(address)


def _peer_ends(
    section: Section, kind: str, interface: str
) -> tuple[str, tuple[str, ...]]:
    local = ""
    value = section.take("local")
    if value is None and kind == "tcp":
        section.refuse("local", "must be given for a tcp link: an IP address")
    elif value is None and "interface" not in section:
        section.refuse("local", 'must be given for a unicast link (or "interface")')
    if value is not None:
        local = _unicast_address(value) or ""
        if not local:
            section.refuse("local", f"is {shown(value)}, must be an IP address")
    if "peers" not in section:
        rule = f"must be given for a {kind} link: a list of addresses"
        section.refuse("peers", rule)
    peers = section.items("peers", "IP addresses", _unicast_address)
    if local and local in peers:
        section.refuse("peers", f'contains the local address "{local}", remove it')
    families = {ipaddress.ip_address(end).version for end in (local, *peers) if end}
    if kind == "tcp" and len(families) > 1:
        section.refuse("peers", "must be of the same family as the local address")
    for peer in (local, *peers):
        if peer.startswith("fe80:") and "%" not in peer and not interface:
            key = "local" if peer == local else "peers"
            section.refuse(key, f'"{peer}" is link-local, give "interface" with it')
    return local, peers


def _address(value: object) -> Address | None:
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _unicast_address(value: object) -> str | None:
    address = _address(value)
    if address is None or address.is_multicast or address.is_unspecified:
        return None
    return str(address)


def _is_interface(value: str) -> bool:
    plain = value.isprintable() and not set(value) & set(" /:")
    return plain and 1 <= len(value.encode()) <= 15 and value not in (".", "..")
