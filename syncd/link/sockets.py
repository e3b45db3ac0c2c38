"""The sockets of a link, made and set up in one go.

In: a link's configuration, the interface index, the own address. Out: non-blocking
sockets, bound and joined. The rule: whatever the kernel refuses is an OSError, and no
socket is left open then.
"""

import contextlib
import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterator

from syncd.config_link import LinkConfig

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Address = tuple[str, int] | tuple[str, int, int, int]

# asm-generic/socket.h, linux/in.h and linux/in6.h; Python has no names for them.
_SO_ATTACH_FILTER = 26
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_MEMINFO = struct.Struct("=9I")  # [8] datagrams dropped
_BUFFER_LIMIT = (1 << 30) - 1
_BACKLOG = 16
_UNACKED_MS = 3000  # that long without an acknowledgement: the connection is dead
_KEEPALIVE_S = 2


def open_receiver(
    config: LinkConfig, version: int, local: IpAddress | None, index: int
) -> socket.socket:
    """Bound to the group or the own address, and to the interface if one is named."""
    with _fresh(version) as sock:
        _grow(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, config.receive_buffer)
        _bind_to_interface(sock, config.interface)
        if config.type == "multicast":
            group = ipaddress.ip_address(config.group)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(resolve(group, config, index))
            _join(sock, group, index)
        else:
            sock.bind(_source(local, version, config, index, config.port))
        return sock


def open_sender(
    config: LinkConfig, version: int, local: IpAddress | None, index: int
) -> socket.socket:
    """Leaves by the interface; hears nothing, so that nothing piles up in it."""
    with _fresh(version) as sock:
        _make_deaf(sock)
        _grow(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, config.send_buffer)
        _bind_to_interface(sock, config.interface)
        if config.type == "unicast":
            sock.bind(_source(local, version, config, index, 0))
        elif version == 4:
            device = struct.pack("=4s4si", b"", b"", index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, device)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        return sock


def open_listener(config: LinkConfig, local: IpAddress, index: int) -> socket.socket:
    """Where peers of a TCP link connect to."""
    with _fresh(local.version, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind_to_interface(sock, config.interface)
        sock.bind(_source(local, local.version, config, index, config.port))
        sock.listen(_BACKLOG)
        return sock


def open_dialler(config: LinkConfig, local: IpAddress, index: int) -> socket.socket:
    """A socket that is about to connect to a peer of a TCP link."""
    with _fresh(local.version, socket.SOCK_STREAM) as sock:
        _bind_to_interface(sock, config.interface)
        sock.bind(_source(local, local.version, config, index, 0))
        return sock


def prepare_stream(sock: socket.socket, config: LinkConfig) -> None:
    """A connected socket of a TCP link: no delay, and dead ones are noticed soon."""
    _grow(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, config.send_buffer)
    _grow(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, config.receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _KEEPALIVE_S),
        (socket.TCP_KEEPINTVL, _KEEPALIVE_S),
        (socket.TCP_KEEPCNT, 2),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def resolve(target: IpAddress, config: LinkConfig, index: int) -> Address:
    """The socket address of a group or peer; IPv6 is scoped to the interface."""
    if isinstance(target, ipaddress.IPv4Address):
        return str(target), config.port
    return plain(target), config.port, 0, _scope(target, config, index)


def plain(address: IpAddress) -> str:
    """The address as the kernel writes it, without a scope."""
    return str(address).partition("%")[0]


def parse(address: str) -> IpAddress:
    """An address, with or without a scope."""
    return ipaddress.ip_address(address)


def count_drops(sock: socket.socket) -> int:
    """Datagrams that arrived when the receive buffer was full."""
    answer = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(answer)[8])


@contextlib.contextmanager
def _fresh(version: int, kind: int = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        yield sock
    except BaseException:
        sock.close()
        raise


def _grow(sock: socket.socket, force: int, ask: int, size: int) -> None:
    size = min(size, _BUFFER_LIMIT)
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:  # not in the first user namespace: net.core.*mem_max rule
        sock.setsockopt(socket.SOL_SOCKET, ask, size)


def _bind_to_interface(sock: socket.socket, interface: str) -> None:
    if interface:
        with contextlib.suppress(PermissionError):  # kernels before 5.7, without rights
            name = interface.encode() + b"\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)


def _join(sock: socket.socket, group: IpAddress, index: int) -> None:
    """Join on this interface, and hear nothing that other sockets have joined."""
    if isinstance(group, ipaddress.IPv4Address):
        wanted = struct.pack("=4s4si", group.packed, b"", index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    else:
        wanted = struct.pack("=16sI", group.packed, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, wanted)
        with contextlib.suppress(OSError):  # since Linux 4.20
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def _source(
    local: IpAddress | None, version: int, config: LinkConfig, index: int, port: int
) -> Address:
    if version == 4:
        return str(local or "0.0.0.0"), port  # noqa: S104 - sources are checked
    if local is None:
        return "::", port, 0, 0
    return plain(local), port, 0, _scope(local, config, index)


def _scope(address: IpAddress, config: LinkConfig, index: int) -> int:
    """The interface that a link-local address belongs to, 0 for any other one."""
    if isinstance(address, ipaddress.IPv4Address):
        return 0
    multicast = address.is_multicast and address.packed[1] & 0x0F <= 2
    if not (address.is_link_local or multicast):
        return 0
    if address.scope_id and not config.interface:
        return socket.if_nametoindex(address.scope_id)
    return index


def _make_deaf(sock: socket.socket) -> None:
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret 0
    program = struct.pack("HP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
