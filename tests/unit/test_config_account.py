"""The `[accounting]` table."""

import pytest
from syncd.config import parse
from syncd.config_account import AccountingConfig, collector_of
from syncd.errors import ConfigError

LINK = '[[link]]\ninterface = "eth2"\ngroup = "225.0.0.50"\n'
ALONE = '[node]\nname = "a"\n[accounting]\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return caught.value.problems


def test_accounts_alone_need_no_link() -> None:
    config = parse(ALONE + 'json = "/flows"\n', "f")
    assert config.links == ()
    assert config.accounting == AccountingConfig(json="/flows")
    assert config.accounting.wanted


def test_who_keeps_accounts_has_reliable_events_unless_told_otherwise() -> None:
    assert parse(ALONE + 'json = "/flows"\n', "f").kernel.reliable_events
    text = ALONE + 'json = "/flows"\n[kernel]\nreliable_events = false\n'
    assert not parse(text, "f").kernel.reliable_events
    assert not parse(LINK, "f", "a").kernel.reliable_events


def test_without_the_table_no_accounts_are_kept() -> None:
    assert not parse(LINK, "f", "a").accounting.wanted
    assert not parse(LINK + "[accounting]\n", "f", "a").accounting.wanted


def test_a_place_has_to_be_named() -> None:
    rule = "f:accounting: must name where records go: json, text or ipfix"
    assert problems(ALONE) == [rule]
    assert problems(LINK + "[accounting]\nfilter = true\n") == [rule]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('json = "flows"', "json"),
        ('text = "/flows/"', "text"),
        ('ipfix = "collector:4739"', "ipfix"),
        ('ipfix = "192.0.2.1"', "ipfix"),
        ('ipfix = "2001:db8::1:4739"', "ipfix"),
        ('ipfix = "192.0.2.1:0"', "ipfix"),
        ('ipfix = "192.0.2.1:4739"\nipfix_domain = 0', "ipfix_domain"),
        ('json = "/a"\nbuffer = "1 KiB"', "buffer"),
        ('json = "/a"\ntext = "/a"', "text"),
        ('json = "/a"\nfile = "/b"', "file"),
    ],
)
def test_what_is_wrong_is_named(line: str, key: str) -> None:
    (problem,) = problems(ALONE + line + "\n")
    assert problem.startswith(f"f:accounting.{key}: ")


def test_a_collector_is_an_address_and_a_port() -> None:
    assert collector_of("192.0.2.1:4739") == ("192.0.2.1", 4739)
    assert collector_of("[2001:db8::1]:99") == ("2001:db8::1", 99)
    assert collector_of("") is None
