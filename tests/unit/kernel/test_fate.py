"""Settings that decide how restored flows fare, from files that look like /proc."""

from pathlib import Path

from syncd.kernel.fate import name_policies, read_fate
from syncd.kernel.policies import Policy


def test_timeouts_switches_limits_and_helpers_are_read_and_nothing_else(
    tmp_path: Path,
) -> None:
    settings, modules = tmp_path / "netfilter", tmp_path / "module"
    settings.mkdir()
    wanted = {
        "nf_conntrack_tcp_timeout_established": 432000,
        "nf_conntrack_udp_timeout": 30,
        "nf_conntrack_generic_timeout": 600,
        "nf_flowtable_tcp_timeout": 30,
        "nf_conntrack_tcp_loose": 1,
        "nf_conntrack_tcp_be_liberal": 0,
        "nf_conntrack_tcp_ignore_invalid_rst": 0,
        "nf_conntrack_max": 262144,
        "nf_conntrack_buckets": 65536,
        "nf_conntrack_expect_max": 1024,
        "nf_conntrack_acct": 0,
        "nf_conntrack_timestamp": 1,
    }
    other = ("count", "events", "checksum", "log_invalid", "frag6_timeout")
    for name in (*wanted, *(f"nf_conntrack_{word}" for word in other)):
        (settings / name).write_text(f"{wanted.get(name, 7)}\n")
    for module in ("nf_conntrack_ftp", "nf_conntrack_netlink", "nf_conntrack", "vfat"):
        (modules / module).mkdir(parents=True)
    assert read_fate(settings, modules) == wanted | {"helper ftp": "present"}


def test_a_kernel_that_has_none_of_it_has_nothing_to_say(tmp_path: Path) -> None:
    assert read_fate(tmp_path, tmp_path / "none") == {}


def test_each_state_of_a_policy_has_its_own_name() -> None:
    policies = [
        Policy("web", 2, 6, {"SYN_SENT": 5, "ESTABLISHED": 60}),
        Policy("tunnel", 10, 50, {"TIMEOUT": 90}),
    ]
    assert name_policies("policy", policies) == {
        "policy web inet tcp SYN_SENT": 5,
        "policy web inet tcp ESTABLISHED": 60,
        "policy tunnel inet6 generic 50 TIMEOUT": 90,
    }
