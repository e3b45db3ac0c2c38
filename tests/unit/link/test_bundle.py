"""A bundle without an interface: what it wants and what it says."""

import pytest
from syncd.config_link import LinkConfig
from syncd.link.bundle import LinkBundle

CONFIGS = (
    LinkConfig(interface="eth2", group="225.0.0.50"),
    LinkConfig(interface="eth3", group="ff02::50"),
    LinkConfig(type="unicast", local="10.0.0.1", peers=("10.0.0.2",)),
    LinkConfig(type="unicast", interface="eth2", peers=("10.0.0.2",)),
    LinkConfig(type="tcp", local="10.0.0.1", peers=("10.0.0.2",)),
)


def test_each_interface_is_wanted_once_by_name_or_address() -> None:
    bundle = LinkBundle(CONFIGS, lambda _place, _batch: True)
    assert bundle.wanted == ("eth2", "eth3", "10.0.0.1")


def test_without_an_active_link_nobody_sends() -> None:
    bundle = LinkBundle(CONFIGS, lambda _place, _batch: True)
    assert not bundle.active


def test_facts_reach_only_the_links_on_that_interface() -> None:
    bundle = LinkBundle(CONFIGS, lambda _place, _batch: True)
    bundle.interface_changed("eth2", None, 1400, [])
    assert [status.reason for status in bundle.status()] == [
        "the interface is absent or down",
        "interface not seen yet",
        "interface not seen yet",
        "the interface is absent or down",
        "interface not seen yet",
    ]
    sizes = [1372, 1232, 548, 1372, 4096]
    assert [status.frame_bytes for status in bundle.status()] == sizes


@pytest.mark.parametrize("count", [1, 5])
def test_a_closed_bundle_has_no_sender(count: int) -> None:
    bundle = LinkBundle(CONFIGS[:count], lambda _place, _batch: True)
    bundle.close()
    assert not bundle.active
