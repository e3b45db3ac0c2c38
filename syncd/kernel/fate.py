"""What decides in this kernel how a restored flow fares: settings and helpers.

In: /proc/sys/net/netfilter of this network namespace, /sys/module, the timeout policies
and those of nftables. Out: names with values. The rule: what is not there is left out;
what only concerns logging, checksums, events or reassembly is no matter here.

Of conntrack helpers the kernel tells those that are modules, or built in with
parameters; nf_conntrack_pptp built into the kernel is not seen.
"""

import errno
from pathlib import Path

from syncd.errors import KernelError
from syncd.kernel.host import read_setting
from syncd.kernel.policies import (
    FAMILIES,
    PROTOCOLS,
    Policy,
    get_default,
    list_objects,
    list_policies,
)

_SETTINGS = Path("/proc/sys/net/netfilter")
_MODULES = Path("/sys/module")
_TIMEOUTS = ("nf_conntrack_*timeout*", "nf_flowtable_*timeout")
_OTHERS = (
    *("nf_conntrack_max", "nf_conntrack_buckets", "nf_conntrack_expect_max"),
    *("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_helper"),
    *("nf_conntrack_tcp_loose", "nf_conntrack_tcp_be_liberal"),
    *("nf_conntrack_tcp_no_window_check", "nf_conntrack_tcp_ignore_invalid_rst"),
    *("nf_conntrack_tcp_max_retrans", "nf_conntrack_dccp_loose"),
)
_REASSEMBLY = "nf_conntrack_frag6_"
_HELPERS = (
    *("amanda", "ftp", "h323", "irc", "netbios_ns", "pptp", "rtsp", "sane", "sip"),
    *("snmp", "tftp"),
)


_WITHOUT_SETTING = {"tcp": "SYN_SENT2"}  # defaults that no sysctl shows
_LACKING = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def read_fate(
    settings: Path = _SETTINGS, modules: Path = _MODULES
) -> dict[str, int | str]:
    """Settings and helpers, as they are now."""
    names = {path.name for glob in _TIMEOUTS for path in settings.glob(glob)}
    names = {name for name in names if not name.startswith(_REASSEMBLY)}
    found: dict[str, int | str] = {}
    for name in sorted(names.union(_OTHERS)):
        value = read_setting(name, settings)
        if value is not None:
            found[name] = value
    for name in _HELPERS:
        if (modules / f"nf_conntrack_{name}").is_dir():
            found[f"helper {name}"] = "present"
    return found


def read_policies() -> dict[str, int | str]:
    """Timeout policies, and defaults that are no settings; {} if the kernel has none.

    It asks the kernel and waits, 5 s at most; a KernelError says that it was in vain.
    """
    found: dict[str, int | str] = {}
    for read in (_policies, _defaults, _objects):
        try:
            found |= read()
        except KernelError as error:
            if error.errno not in _LACKING:
                raise
    return found


def _policies() -> dict[str, int | str]:
    return name_policies("policy", list(list_policies()))


def _objects() -> dict[str, int | str]:
    return name_policies("ct timeout", list(list_objects()))


def _defaults() -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for protocol, state in _WITHOUT_SETTING.items():
        seconds = get_default(protocol).seconds.get(state)
        if seconds is not None:
            found[f"default {protocol} {state}"] = seconds
    return found


def name_policies(kind: str, policies: list[Policy]) -> dict[str, int | str]:
    """One item for each state of each policy."""
    families = {number: name for name, number in FAMILIES.items()}
    found: dict[str, int | str] = {}
    for policy in policies:
        family = families.get(policy.family, str(policy.family))
        protocol = policy.protocol
        if policy.number != PROTOCOLS[protocol][0]:
            protocol += f" {policy.number}"
        for state, seconds in policy.seconds.items():
            found[f"{kind} {policy.name} {family} {protocol} {state}"] = seconds
    return found
