"""The `[accounting]` table of a configuration.

In: the root of the parsed file. Out: an `AccountingConfig`. The rule: a table that says
something names at least one place that records go to.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from syncd.section import MIB, Section, shown

_COLLECTOR: Final = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class AccountingConfig:
    """Where a record of each ended flow goes."""

    json: str = ""  # File of JSON lines.
    text: str = ""  # File of lines as conntrackd's statistics mode writes them.
    ipfix: str = ""  # Collector, "ADDRESS:PORT".
    ipfix_domain: int = 1  # Observation domain, for the collector to tell apart.
    ipfix_templates_s: float = 60.0  # Seconds between two sendings of all templates.
    filter: bool = False  # Record only what [filter] admits.
    buffer: int = 16 * MIB  # Bytes of records that wait for each of the places.
    enable_kernel_accounting: bool = False  # May the daemon set the two sysctls?

    @property
    def wanted(self) -> bool:
        """Are accounts kept at all?"""
        return bool(self.json or self.text or self.ipfix)


def read_accounting(root: Section) -> AccountingConfig:
    """The table, or what stands for none."""
    given = root.take("accounting")
    alone = "accounting" in root and "link" not in root
    section = root.section("accounting")
    default = AccountingConfig()
    rule = "an absolute path of a file"
    config = AccountingConfig(
        json=section.text("json", "", rule, _is_path),
        text=section.text("text", "", rule, _is_path),
        ipfix=_collector(section),
        ipfix_domain=section.whole("ipfix_domain", 1, 1, (1 << 32) - 1),
        ipfix_templates_s=section.seconds(
            "ipfix_templates_s", default.ipfix_templates_s, 1, 3600
        ),
        filter=section.flag("filter", default=False),
        buffer=section.size("buffer", default.buffer),
        enable_kernel_accounting=section.flag(
            "enable_kernel_accounting", default=False
        ),
    )
    if config.json and config.json == config.text:
        section.refuse("text", "is the file of json, write another one")
    section.finish()
    named = any(key in section for key in ("json", "text", "ipfix"))
    if (given or alone) and not named:
        section.refuse("", "must name where records go: json, text or ipfix")
    return config


def collector_of(value: str) -> tuple[str, int] | None:
    """Address and port of "ADDRESS:PORT"; an address of IPv6 stands in brackets."""
    match = _COLLECTOR.fullmatch(value)
    if match is None or not 1 <= int(match[3]) <= 65535:
        return None
    try:
        address = ipaddress.ip_address(match[1] or match[2])
    except ValueError:
        return None
    if (address.version == 6) != bool(match[1]):
        return None
    return str(address), int(match[3])


def _collector(section: Section) -> str:
    value = section.take("ipfix")
    if value is None:
        return ""
    if isinstance(value, str) and collector_of(value) is not None:
        return value
    rule = 'an address and a port such as "192.0.2.1:4739" or "[2001:db8::1]:4739"'
    section.refuse("ipfix", f"is {shown(value)}, must be {rule}")
    return ""


def _is_path(value: str) -> bool:
    return value[:1] == "/" and value[-1:] != "/" and "\0" not in value
