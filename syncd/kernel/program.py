"""Which program changed a table: the portid of an event comes in, a name goes out.

As conntrack does it: /proc/net/netlink tells the socket of the portid, and the process
that has this socket open is looked for, the one whose pid is the portid first.
"""

import os
from collections.abc import Iterator

from syncd.kernel.listing import NETLINK_NETFILTER


class Programs:
    """Names of programs; the last one is remembered, as one flush is many events."""

    def __init__(self) -> None:
        self._last: tuple[int, str] = (0, "")
        self._name: str | None = None

    def name(self, portid: int) -> str | None:
        """The name of the process behind the portid, None if it has gone."""
        inode = _inode(portid)
        if inode is None:
            return None
        if (portid, inode) != self._last:
            self._last = portid, inode
            self._name = _owner(portid, inode)
        return self._name


def _inode(portid: int) -> str | None:
    try:
        with open("/proc/net/netlink") as table:
            for line in table:
                words = line.split()
                if words[1:3] == [str(NETLINK_NETFILTER), str(portid)]:
                    return words[9]
    except (OSError, IndexError):
        pass
    return None


def _owner(portid: int, inode: str) -> str | None:
    wanted = f"socket:[{inode}]"
    for pid in _candidates(portid):
        try:
            directory = f"/proc/{pid}/fd"
            for number in os.listdir(directory):
                if os.readlink(f"{directory}/{number}") == wanted:
                    return _program(pid)
        except OSError:
            continue  # it ended, or a file of it was closed
    return None


def _candidates(first: int) -> Iterator[int]:
    yield first
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, first):
            yield int(name)


def _program(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    return text.partition("(")[2].partition(")")[0] or None
