"""What decides in this kernel how a restored flow fares: settings and helpers.

In: /proc/sys/net/netfilter of this network namespace, /sys/module. Out: names with
values. The rule: what is not there is left out; what only concerns logging, checksums,
events or reassembly is no matter here.

Of conntrack helpers the kernel tells those that are modules, or built in with
parameters; nf_conntrack_pptp built into the kernel is not seen.
"""

from pathlib import Path

from syncd.kernel.host import read_setting

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


def read_fate(
    settings: Path = _SETTINGS, modules: Path = _MODULES
) -> dict[str, int | str]:
    """All of it, as it is now."""
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
