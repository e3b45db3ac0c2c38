"""TOML text goes in; a `Config` or every problem, by file and key, comes out."""

import ipaddress
from pathlib import Path

import pytest
from syncd import config
from syncd.config import Config, load, parse
from syncd.config_filter import Choice, FilterConfig
from syncd.config_link import LinkConfig
from syncd.errors import ConfigError
from syncd.flows.masks import Masks

LEAST = """
[node]
name = "fw1"
[[link]]
interface = "eth2"
group = "225.0.0.50"
[security]
mode = "off"
"""
UNICAST = """
[node]
name = "fw1"
[security]
mode = "off"
[[link]]
type = "unicast"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.toml")
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def only_problem(text: str) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_the_shortest_file_has_a_link_and_says_how_it_is_protected() -> None:
    read = parse(LEAST, "f.toml")
    assert read == Config(
        node=config.NodeConfig("fw1"),
        links=(LinkConfig(interface="eth2", group="225.0.0.50"),),
        security=config.SecurityConfig("off"),
    )
    assert read.kernel.receive_buffer == 16 * 1024 * 1024
    assert read.links[0].port == 3780
    assert read.commit.timeout is None
    assert read.control.socket == "/run/syncd/syncd.sock"


def test_the_name_is_the_host_name_by_default() -> None:
    text = LEAST.replace('name = "fw1"', "")
    assert parse(text, "f", host="gate-7").node.name == "gate-7"
    with pytest.raises(ConfigError, match=r"^f:node.name: must be given"):
        parse(text, "f", host="")


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        """
        [node]
        name = "a b"
        [[link]]
        type = "unicast"
        local = "10.0.0.1"
        peers = ["10.0.0.1", "x"]
        port = 0
        [kernel]
        receive_buffer = "1 KiB"
        [commit]
        timeout = 0
        """
    )
    assert [problem.split(": ")[0] for problem in found] == [
        "f.toml:node.name",
        "f.toml:link[1].peers",
        "f.toml:link[1].peers",
        "f.toml:link[1].port",
        "f.toml:kernel.receive_buffer",
        "f.toml:commit.timeout",
    ]


def test_an_unknown_key_gets_a_hint_when_one_is_near() -> None:
    problem = only_problem(LEAST + "[kernel]\nrecieve_buffer = 1\n")
    assert problem.startswith("f.toml:kernel.recieve_buffer: is not known")
    assert 'did you mean "receive_buffer"?' in problem
    assert "allowed: receive_buffer, reliable_events, audit_interval_s" in problem
    assert "mean" not in only_problem(LEAST + "[zzz]\n")
    assert 'mean "link"' in problems(LEAST.replace("[[link]]", "[[lnik]]"))[-1]


def test_a_syntax_error_names_the_line() -> None:
    assert only_problem(LEAST + "x = = 3").startswith("f.toml:9: is not TOML: ")
    assert only_problem("a = 1\nb = [").startswith("f.toml:2: is not TOML: ")
    assert only_problem("x = " + "[" * 5000).startswith("f.toml")
    assert only_problem("x = " + "9" * 5000).startswith("f.toml")


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("replication", "mode", '"ftfw"', "best-effort"),
        ("replication", "expire_s", "100", "twice refresh_interval_s"),
        ("replication", "peer_limit", "0", "1"),
        ("replication", "forget_after_s", "5", "60"),
        ("replication", "mode", '"fast"', 'must be "reliable"'),
        ("replication", "standby", '"warm"', '"table" or "kernel"'),
        ("replication", "warm_timeout_s", "10", "from 60"),
        ("replication", "expectations", '"ftp"', "true, false or a list"),
        ("replication", "expectations", '["a-name-that-is-too-long"]', "names of"),
        ("replication", "hello_interval_s", "0", "0.05"),
        ("replication", "silence_s", "0.6", "twice hello_interval_s"),
        ("replication", "window_frames", "2", "from 4"),
        ("replication", "window_frames", "true", "from 4"),
        ("control", "socket", '"relative"', "absolute path"),
        ("control", "socket", f'"/{"x" * 107}"', "at most 107 bytes"),
        ("kernel", "receive_buffer", '"16 MB"', '"16 MiB"'),
        ("kernel", "receive_buffer", "true", '"16 MiB"'),
        ("kernel", "receive_buffer", '"2000 GiB"', '"1 GiB"'),
        ("kernel", "reliable_events", "1", "true or false"),
        ("kernel", "audit_interval_s", "-1", "seconds from 0 to 86400"),
        ("commit", "timeout", '"soon"', '"estimate" or whole seconds'),
        ("commit", "timeout", "-1", '"estimate" or whole seconds'),
        ("commit", "mark_mask", "0x100000000", "a number from 0 to 4294967295"),
        ("commit", "label_mask", '"0x1_0"', "hexadecimal digits"),
        ("commit", "label_mask", '"all"', "hexadecimal digits"),
        ("commit", "labels", '"no"', "true or false"),
        ("filter", "protocols", '{ accept = ["foo"] }', "names such as tcp"),
        ("filter", "protocols", "{ accept = [256] }", "names such as tcp"),
        ("filter", "protocols", "{ accept = [] }", "must be a list"),
        ("filter", "protocols", "{}", "accept = [...]"),
        ("filter", "protocols", '["tcp"]', "must be a table"),
        ("filter", "addresses", '{ ignore = ["10.0.0.1/8"] }', "10.0.0.0/8"),
        ("filter", "tcp_states", '{ accept = ["OPEN"] }', "ESTABLISHED"),
        ("filter", "marks", '{ accept = ["0x1f/0xf0"] }', "a mask that covers it"),
        ("filter", "marks", "{ accept = [4294967296] }", "marks such as 7"),
        ("filter", "marks", "{ accept = [-1] }", "marks such as 7"),
        ("filter", "marks", '{ ignore = ["red"] }', "marks such as 7"),
        ("filter", "zones", "{ accept = [65536] }", "zones from 0 to 65535"),
        ("filter", "zones", '{ accept = ["both:5"] }', "orig:5"),
        ("filter", "zones", "{ accept = [true] }", "zones from 0 to 65535"),
        ("filter", "nat", '{ accept = ["snat"] }', "src, dst, any, none"),
        ("filter", "min_age_s", "-1", "seconds from 0 to 86400"),
        ("filter", "min_age_s", '"10"', "seconds from 0 to 86400"),
        ("filter", "own_addresses", "true", '"ignore" or "accept"'),
        ("filter", "own", '"accept"', "own_addresses"),
        ("filter", "tcp_states", '{ acept = ["CLOSE"], ignore = ["CLOSE"] }', "mean"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(
    section: str, key: str, value: str, words: str
) -> None:
    found = problems(f"{LEAST}[{section}]\n{key} = {value}\n")
    assert found[0].startswith(f"f.toml:{section}.{key}")
    assert words in found[0]


def test_frames_are_protected_unless_something_else_is_said() -> None:
    read = parse(LEAST.replace('mode = "off"', ""), "f.toml")
    assert read.security == config.SecurityConfig("enforce", "/etc/syncd/keys")
    for mode in ("enforce", "permissive", "off"):
        text = LEAST.replace('"off"', f'"{mode}"')
        assert parse(text, "f.toml").security.mode == mode
    problem = only_problem(LEAST.replace('"off"', '"on"'))
    assert problem.startswith('f.toml:security.mode: is "on", must be "enforce" or')
    problem = only_problem(LEAST + 'key_file = "keys"\n')
    assert problem.startswith("f.toml:security.key_file")


def test_sizes_are_bytes_or_have_a_unit() -> None:
    for text, size in (('"64 KiB"', 65536), ('"1MiB"', 1 << 20), ("20000", 20000)):
        read = parse(f"{LEAST}[kernel]\nreceive_buffer = {text}\n", "f")
        assert read.kernel.receive_buffer == size


def test_masks_are_whole_unless_something_else_is_said() -> None:
    def commit(text: str) -> tuple[int, int]:
        masks = Masks.of(parse(f"{LEAST}[commit]\n{text}\n", "f.toml").commit)
        return masks.mark_mask, masks.label_mask

    marks, labels = config.ALL_MARKS, config.ALL_LABELS
    assert commit("") == (0xFFFFFFFF, (1 << 128) - 1) == (marks, labels)
    assert commit("mark_mask = 0xff00") == (0xFF00, labels)
    assert commit('label_mask = "0x8001"') == (marks, 0x8001)
    assert commit('label_mask = "8001"\nlabels = false') == (marks, 0)


def test_a_filter_holds_numbers_and_networks() -> None:
    read = parse(
        LEAST
        + """
        [filter]
        protocols = { accept = ["tcp", 17, "ICMPv6", "gre"] }
        addresses = { ignore = ["127.0.0.0/8", "fd00::/8", "10.0.0.1"] }
        tcp_states = { accept = ["ESTABLISHED", "CLOSED", "LISTEN"] }
        marks = { accept = [7, "0x10/0xf0"], ignore = ["0/0x1"] }
        zones = { ignore = [5, "orig:6", "reply:65535"] }
        nat = { accept = ["src", "none"] }
        min_age_s = 2.5
        own_addresses = "accept"
        """,
        "f",
    ).filter
    assert read.protocols == Choice(accept=(6, 17, 58, 47))
    assert read.addresses == Choice(
        ignore=tuple(
            ipaddress.ip_network(text)
            for text in ("127.0.0.0/8", "fd00::/8", "10.0.0.1/32")
        )
    )
    assert read.tcp_states == Choice(accept=(3, 8, 9))
    assert read.marks == Choice(((7, 0xFFFFFFFF), (0x10, 0xF0)), ((0, 1),))
    assert read.zones == Choice(ignore=(("", 5), ("orig", 6), ("reply", 65535)))
    assert read.nat == Choice(accept=("src", "none"))
    assert read.min_age_s == 2.5
    assert read.own_addresses == "accept"


def test_an_empty_filter_leaves_out_what_is_the_nodes_own_and_nothing_else() -> None:
    assert parse(LEAST, "f").filter == FilterConfig(own_addresses="ignore")


def test_the_same_thing_twice_in_a_list_is_refused() -> None:
    text = LEAST + '[filter]\nprotocols = { accept = ["tcp", 6] }\n'
    assert "6 is there twice" in only_problem(text)


def test_expectations_are_all_none_or_those_of_some_names() -> None:
    for text, value in (("true", True), ("false", False), ('["ftp"]', ("ftp",))):
        read = parse(f"{LEAST}[replication]\nexpectations = {text}\n", "f")
        assert read.replication.expectations == value


def test_a_link_is_needed() -> None:
    text = '[node]\nname = "a"\n[security]\nmode = "off"\n'
    assert only_problem(text) == (
        "f.toml:link: at least one [[link]] must be given "
        "(or [accounting], for a node that only keeps accounts)"
    )
    assert "write [[link]]" in only_problem(LEAST.replace("[[link]]", "[link]"))


TCP = LEAST + '[[link]]\ntype = "tcp"\n'


def test_a_tcp_link_has_an_address_and_peers_of_its_family() -> None:
    text = TCP + 'local = "10.0.0.1"\npeers = ["10.0.0.2"]\n'
    assert parse(text, "f").links[1] == LinkConfig(
        type="tcp", local="10.0.0.1", peers=("10.0.0.2",)
    )
    assert only_problem(TCP + 'peers = ["10.0.0.2"]\n') == (
        "f.toml:link[2].local: must be given for a tcp link: an IP address"
    )
    assert "tcp link" in only_problem(TCP + 'local = "10.0.0.1"\n')
    mixed = TCP + 'local = "10.0.0.1"\npeers = ["fd00::2"]\n'
    assert "same family" in only_problem(mixed)
    alone = TCP + 'local = "fe80::1"\npeers = ["fe80::2"]\n'
    assert len(problems(alone)) == 2
    assert parse(alone + 'interface = "eth2"\n', "f").links[1].interface == "eth2"
    assert "belongs to multicast" in only_problem(text + 'group = "225.0.0.50"\n')


@pytest.mark.parametrize("group", ["225.0.0.50", "ff02::5c"])
def test_a_multicast_group_is_of_either_family(group: str) -> None:
    assert parse(LEAST.replace("225.0.0.50", group), "f").links[0].group == group


@pytest.mark.parametrize("group", ["10.0.0.1", "fe80::1", "x", "ff02::5c%eth2", ""])
def test_what_is_no_multicast_group_is_refused(group: str) -> None:
    problem = only_problem(LEAST.replace("225.0.0.50", group))
    assert problem.startswith("f.toml:link[1].group: is ")


def test_a_multicast_link_needs_interface_and_group() -> None:
    found = problems(LEAST.replace("interface", "local").replace("group", "peers"))
    keys = {problem.split(": ")[0].split("].")[1] for problem in found}
    assert keys == {"interface", "group", "local", "peers"}


def test_a_unicast_link_has_its_own_end_and_the_others() -> None:
    text = UNICAST + 'local = "10.0.0.1"\npeers = ["10.0.0.2", "fd00:0::3"]\n'
    link = parse(text, "f").links[0]
    assert (link.local, link.peers) == ("10.0.0.1", ("10.0.0.2", "fd00::3"))
    text = UNICAST + 'interface = "eth1"\npeers = ["fe80::2"]\n'
    assert parse(text, "f").links[0].interface == "eth1"


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('peers = ["10.0.0.2"]', "local"),
        ('local = "10.0.0.1"', "peers"),
        ('local = "225.0.0.1"\npeers = ["10.0.0.2"]', "local"),
        ('local = "10.0.0.1"\npeers = ["10.0.0.1"]', "peers"),
        ('local = "10.0.0.1"\npeers = ["10.0.0.2", "10.0.0.2"]', "peers"),
        ('local = "10.0.0.1"\npeers = ["0.0.0.0"]', "peers"),
        ('local = "fd00::1"\npeers = ["fe80::2"]', "peers"),
        ('local = "10.0.0.1"\npeers = ["10.0.0.2"]\ngroup = "225.0.0.1"', "group"),
        ('interface = "a/b"\npeers = ["10.0.0.2"]', "interface"),
        ('interface = "longer-than-fifteen"\npeers = ["10.0.0.2"]', "interface"),
    ],
)
def test_a_unicast_link_that_cannot_work_is_refused(lines: str, key: str) -> None:
    assert only_problem(UNICAST + lines).startswith(f"f.toml:link[1].{key}: ")


def test_the_same_link_twice_is_refused() -> None:
    again = '[[link]]\ninterface = "eth2"\ngroup = "225.0.0.50"\n'
    assert only_problem(LEAST + again) == "f.toml:link[2]: is the same as link[1]"
    other = again.replace("eth2", "eth3")
    assert len(parse(LEAST + other, "f").links) == 2


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(str(path))
    file = tmp_path / "syncd.toml"
    file.write_bytes(b"\n\n# \xff")
    with pytest.raises(ConfigError, match="toml:3: is not UTF-8"):
        load(str(file))
    file.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(str(file))
    file.write_text(LEAST)
    assert load(str(file)).node.name == "fw1"
