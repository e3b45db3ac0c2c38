"""A configuration file that the daemon has read need not be read by its clients.

In: the bytes of a configuration file. Out: its fingerprint, and the path of the control
socket where that is written plainly. The rule: nothing slow is imported here; reading
the whole configuration takes longer than asking the daemon whether it knows it.
"""

import binascii
import re

_TABLE = re.compile(rb"^[ \t]*\[control\][ \t]*$((?:\n(?![ \t]*\[).*)*)", re.M)
_SOCKET = re.compile(
    rb'^[ \t]*socket[ \t]*=[ \t]*"([!#-\[\]-~]+)"[ \t]*(?:#.*)?$', re.M
)


def fingerprint(data: bytes) -> str:
    """Tells an edited file from the one that was read, not a forged one."""
    return f"{len(data)}-{binascii.crc32(data):08x}"


def plain_socket(data: bytes) -> str | None:
    """The control socket's path, if the usual way of writing names it.

    It may be wrong where the file is written in an odd way; who answers there has to
    know the file's fingerprint.
    """
    tables: list[bytes] = _TABLE.findall(data.replace(b"\r\n", b"\n"))
    paths: list[bytes] = [path for table in tables for path in _SOCKET.findall(table)]
    return paths[0].decode() if len(paths) == 1 else None
