"""The host around the tables: settings, limits, rights and interfaces.

In: names. Out: numbers, `Interface` values, and one line of reason where something is
missing. The rule: settings are read and written through /proc/sys, which shows the
network namespace of the reader; of them only nf_conntrack_events is changed unasked.

pyroute2 is imported here and nowhere else: it takes 0.15 s to load and has no types.
Its asynchronous sockets run in our event loop: no thread, no polling.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from syncd.errors import KernelError

_LOG = logging.getLogger("syncd.kernel")
_SETTINGS = Path("/proc/sys/net/netfilter")
_STATUS = Path("/proc/self/status")
_CAP_NET_ADMIN = 12
_NETLINK_NETFILTER = 12
_GET_STATISTICS = 0x0105  # asks for the number of entries: the smallest question
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ANSWER_S = 2.0

# linux/rtnetlink.h, linux/if.h and linux/if_addr.h
_ADDRESS_GROUPS = 0x10 | 0x100
_LINK_AND_ADDRESS_GROUPS = 0x1 | _ADDRESS_GROUPS
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IFA_F_OPTIMISTIC = 0x04
_IFA_F_DADFAILED = 0x08
_IFA_F_TENTATIVE = 0x40
_RESTART_S = 1.0

# address -> interface, prefix length and local address it belongs to
_Places = dict[bytes, set[tuple[int, int, str]]]


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as it is now; `addresses` are those that can be bound."""

    name: str
    index: int
    mtu: int
    addresses: tuple[str, ...]
    up: bool
    carrier: bool

    @property
    def usable(self) -> bool:
        """Datagrams can leave."""
        return self.up and self.carrier


def read_setting(name: str, root: Path = _SETTINGS) -> int | None:
    """A number from net.netfilter, such as "nf_conntrack_tcp_be_liberal"."""
    try:
        return int((root / name).read_text())
    except (OSError, ValueError):
        return None


def table_limit(root: Path = _SETTINGS) -> int:
    """How many flows this namespace may hold; 0 when the kernel does not say."""
    return read_setting("nf_conntrack_max", root) or 0


def table_count(root: Path = _SETTINGS) -> int:
    """How many flows it holds now, dying ones included."""
    return read_setting("nf_conntrack_count", root) or 0


def prepare_events(root: Path = _SETTINGS) -> list[str]:
    """Have the kernel report every flow from now on; warnings, one line each."""
    name = "nf_conntrack_events"
    shown = f"net.netfilter.{name}"
    before = read_setting(name, root)
    if before is None:
        raise KernelError(
            f"{shown} is not there; load the module nf_conntrack",
            errno=errno.ENOENT,
            request=shown,
        )
    if before == 1:
        return []
    reason = ""
    try:
        (root / name).write_text("1\n")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
    after = read_setting(name, root)
    if after == 1:
        return []
    said = f"{shown} is {after} and cannot be set to 1 ({reason or 'it does not stay'})"
    if after == 2:
        return [f"{said}; flows that are older than this daemon will not be reported"]
    raise KernelError(
        f"{said}: the kernel reports nothing", errno=errno.EROFS, request=shown
    )


def prepare_accounting(*, change: bool, root: Path = _SETTINGS) -> list[str]:
    """Are counters and times kept of each flow? Warnings about what is missing.

    With `change` it is set to be so from now on.
    """
    warnings = []
    for name, missing in (
        ("nf_conntrack_acct", "records have no packets and bytes"),
        ("nf_conntrack_timestamp", "records have no start, and their end is estimated"),
    ):
        reason = ""
        if read_setting(name, root) == 0 and change:
            try:
                (root / name).write_text("1\n")
            except OSError as error:
                reason = f" (setting it failed: {os.strerror(error.errno or 0)})"
        if read_setting(name, root) != 1:
            warnings.append(
                f"net.netfilter.{name} is off: {missing}; "
                f"sysctl -w net.netfilter.{name}=1{reason}"
            )
    return warnings


def check_rights(status: Path = _STATUS) -> None:
    """Refuse to go on without the rights and the kernel parts that we need."""
    effective = _effective_capabilities(status)
    if effective is not None and not effective >> _CAP_NET_ADMIN & 1:
        raise KernelError(
            "the capability CAP_NET_ADMIN is needed; run as root",
            errno=errno.EPERM,
            request="capabilities",
        )
    _ask_ctnetlink()


async def interface(wanted: str) -> Interface | None:
    """The interface of that name, or the one that has that address."""
    async with AsyncIPRoute() as routes:
        return await _look(routes, wanted)


async def watch_interfaces(
    wanted: Sequence[str],
) -> AsyncGenerator[tuple[str, Interface | None], None]:
    """The state of each wanted interface now, and again whenever it is another one.

    An interface is wanted by its name or by one of its addresses.
    """
    known: dict[str, Interface | None] = {}
    while True:
        try:
            async with AsyncIPRoute() as news, AsyncIPRoute() as routes:
                await news.bind(groups=_LINK_AND_ADDRESS_GROUPS)
                while True:
                    for name in wanted:
                        found = await _look(routes, name)
                        if name not in known or known[name] != found:
                            known[name] = found
                            yield name, found
                    await _news(news, known)
        except (OSError, NetlinkError) as error:  # an overrun: look at all anew
            _LOG.warning("interfaces: %s, looking again", _reason(error))
            await asyncio.sleep(_RESTART_S)


async def watch_addresses() -> AsyncGenerator[frozenset[bytes], None]:
    """All addresses of this host, broadcast ones too: now, and after each change."""
    known: frozenset[bytes] | None = None
    while True:
        try:
            async with AsyncIPRoute() as news, AsyncIPRoute() as routes:
                await news.bind(groups=_ADDRESS_GROUPS)
                # An address may be on several interfaces, and leave one of them.
                places: _Places = {}
                async for entry in await routes.get_addr():
                    _note_address(places, entry, present=True)
                while True:
                    if frozenset(places) != known:
                        known = frozenset(places)
                        yield known
                    async for message in news.get():  # of one datagram
                        if message["event"] in ("RTM_NEWADDR", "RTM_DELADDR"):
                            present = message["event"] == "RTM_NEWADDR"
                            _note_address(places, message, present=present)
        except (OSError, NetlinkError) as error:  # an overrun: read all anew
            _LOG.warning("addresses: %s, looking again", _reason(error))
            await asyncio.sleep(_RESTART_S)


def _note_address(places: _Places, entry: nlmsg, *, present: bool) -> None:
    own = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
    place = (entry["index"], entry["prefixlen"], str(own))
    for address in (own, entry.get_attr("IFA_BROADCAST")):
        if not address:
            continue
        packed = ipaddress.ip_address(_plain(address)).packed
        if present:
            places.setdefault(packed, set()).add(place)
        elif packed in places:
            places[packed].discard(place)
            if not places[packed]:
                del places[packed]


def _effective_capabilities(status: Path) -> int | None:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return None


def _ask_ctnetlink() -> None:
    """Ask one small question; the kernel loads the module for it if it has one."""
    request = struct.pack(
        "=IHHIIBBH", 20, _GET_STATISTICS, _NLM_F_REQUEST, 1, 0, 0, 0, 0
    )
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER
        ) as asking:
            asking.settimeout(_ANSWER_S)
            asking.send(request)
            answer = asking.recv(8192)
    except OSError as error:
        number = error.errno or errno.ETIMEDOUT
    else:
        number = 0
        if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", answer, 16)[0]
    if number == 0:
        return
    if number == errno.EPERM:
        reason = "not permitted; CAP_NET_ADMIN in this network namespace is needed"
    elif number in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        reason = "this kernel has no ctnetlink; load the module nf_conntrack_netlink"
    else:
        reason = os.strerror(number)
    raise KernelError(f"kernel tables: {reason}", errno=number, request="statistics")


def _reason(error: OSError | NetlinkError) -> str:
    """pyroute2 leaves the text out."""
    number = error.args[0] if error.args else 0
    return os.strerror(number) if isinstance(number, int) and number else str(error)


async def _look(routes: AsyncIPRoute, wanted: str) -> Interface | None:
    """Ask the kernel for one interface and its addresses."""
    index = None
    if _is_address(wanted):
        async for entry in await routes.get_addr():
            if _own_address(entry) == _plain(wanted):
                index = entry["index"]
    else:
        async for entry in await routes.get_links(ifname=wanted):
            index = entry["index"]
    if index is None:
        return None
    found = [entry async for entry in await routes.get_addr(index=index)]
    addresses = sorted(filter(None, map(_own_address, found)))
    try:
        async for entry in await routes.get_links(index):
            return Interface(
                name=entry.get_attr("IFLA_IFNAME"),
                index=index,
                mtu=entry.get_attr("IFLA_MTU"),
                addresses=tuple(addresses),
                up=bool(entry["flags"] & _IFF_UP),
                carrier=bool(entry["flags"] & _IFF_RUNNING),
            )
    except NetlinkError as error:
        if error.code != errno.ENODEV:  # gone between the questions
            raise
    return None


async def _news(news: AsyncIPRoute, known: dict[str, Interface | None]) -> None:
    """Wait for a message that may concern one of the wanted interfaces."""
    indexes = {found.index for found in known.values() if found is not None}
    by_address = any(map(_is_address, known))
    while True:
        async for message in news.get():  # the messages of one datagram
            concerned = message["index"] in indexes
            if message["event"] in ("RTM_NEWADDR", "RTM_DELADDR"):
                concerned |= by_address
            else:
                concerned |= message.get_attr("IFLA_IFNAME") in known
            if concerned:
                return


def _own_address(entry: nlmsg) -> str | None:
    """The address of an RTM_NEWADDR message, if it can be bound."""
    flags = entry.get_attr("IFA_FLAGS") or entry["flags"]
    tentative = flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC
    if tentative or flags & _IFA_F_DADFAILED:
        return None
    own = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
    return _plain(own) if own else None


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address)).partition("%")[0]


def _is_address(wanted: str) -> bool:
    try:
        ipaddress.ip_address(wanted)
    except ValueError:
        return False
    return True
