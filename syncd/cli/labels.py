"""The names of labels: the file that iptables, nftables and conntrack share.

A line is a bit and its name. What libnetfilter_conntrack does not take is left out here
too: names of other letters than a-z, A-Z, 0-9, blank and minus, and what came before.
"""

import re
from typing import Final

FILE: Final = "/etc/xtables/connlabel.conf"
_LINE: Final = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+)(.*)")
_SANE: Final = re.compile(r"[a-zA-Z0-9 -]+")
_BITS: Final = 1024


def read_labels(path: str = FILE) -> dict[int, str]:
    """Bit -> name; OSError if the file cannot be read."""
    names: dict[int, str] = {}
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            found = None if line.startswith("#") else _LINE.match(line)
            if found is None:
                continue
            bit, name = _number(found[1]), found[2].strip(" \f\r\t\v")
            if bit is None or bit >= _BITS or bit in names or not _SANE.fullmatch(name):
                continue
            if name not in names.values():
                names[bit] = name
    return names


def _number(text: str) -> int | None:
    """As strtoul() with base 0 reads it: 010 is 8."""
    octal = len(text) > 1 and text.startswith("0") and text[1] not in "xX"
    try:
        return int(text, 8) if octal else int(text, 0)
    except ValueError:
        return None
