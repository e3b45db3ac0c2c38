"""Interfaces, settings and rights of real namespaces."""

import asyncio
import errno
import os
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from syncd.errors import KernelError
from syncd.kernel.host import (
    Interface,
    check_rights,
    interface,
    prepare_events,
    read_setting,
    table_count,
    table_limit,
    watch_interfaces,
)

from tests.lab import Lab, inside, run_in, sysctl

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]
READ_ONLY = """
import sys
from syncd.errors import KernelError
from syncd.kernel.host import prepare_events
try:
    print("warnings", prepare_events())
except KernelError as error:
    print("refused", error)
"""


@pytest.fixture
def box(lab: Lab) -> str:
    return lab.namespace("box", tracking=True)


def test_the_settings_are_those_of_the_namespace_we_are_in(box: str) -> None:
    sysctl(box, "net.netfilter.nf_conntrack_events", 2)
    run_in(box, "ping", "-c1", "127.0.0.1")
    with inside(box):
        assert prepare_events() == []
        assert read_setting("nf_conntrack_events") == 1
        assert table_count() == 1
        assert table_limit() > 0
    assert sysctl(box, "net.netfilter.nf_conntrack_events") == "1"


@pytest.mark.parametrize(
    ("value", "answer"), [(0, "refused"), (1, "warnings []"), (2, "warnings ['net.")]
)
def test_a_read_only_proc_is_an_error_only_where_nothing_is_reported(
    box: str, value: int, answer: str
) -> None:
    sysctl(box, "net.netfilter.nf_conntrack_events", value)
    command = 'mount -o remount,bind,ro /proc/sys && exec "$@"'
    said = run_in(
        box,
        *(
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount --bind /proc/sys /proc/sys && " + command,
        ),
        *("sh", "env", f"PYTHONPATH={PROJECT}", sys.executable, "-c", READ_ONLY),
    )
    assert said.startswith(answer), said
    assert said.count("\n") == 1


def test_root_has_the_rights_and_nobody_has_not(box: str) -> None:
    with inside(box):
        check_rights()
        os.seteuid(65534)
        try:
            with pytest.raises(KernelError, match="CAP_NET_ADMIN") as refused:
                check_rights()
            with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
                check_rights(Path("/nonexistent"))
        finally:
            os.seteuid(0)
    assert refused.value.errno == errno.EPERM


@pytest.mark.asyncio
async def test_an_interface_is_found_by_its_name_and_by_its_address(
    lab: Lab, box: str
) -> None:
    far = lab.namespace("far")
    lab.cable(box, "eth0", far, "eth0")
    lab.address(box, "eth0", "10.1.0.1/24", "fd01::1/64")
    lab.link(box, "eth0", "mtu", "1400")
    with inside(box):
        async with aclosing(watch_interfaces(["eth0"])) as changes:
            async for _, found in changes:
                if found is not None and found.usable:
                    break
            else:
                pytest.fail("the watch ended")
        assert await interface("fd01:0::1") == await interface("10.1.0.1") == found
        assert await interface("eth9") is None
        assert await interface("10.1.0.9") is None
    assert (found.name, found.mtu, found.usable) == ("eth0", 1400, True)
    assert {"10.1.0.1", "fd01::1"} <= set(found.addresses)


@pytest.mark.asyncio
async def test_a_watch_tells_of_coming_changing_going_and_coming_again(
    lab: Lab, box: str
) -> None:
    far = lab.namespace("far")
    async with aclosing(watch_interfaces(["eth0", "10.1.0.1"])) as changes:

        async def until_seen(
            name: str, *, usable: bool, mtu: int = 1500
        ) -> Interface | None:
            async with asyncio.timeout(5):
                async for changed, found in changes:
                    if changed != name:
                        continue
                    if found is None and not usable:
                        return None
                    if found and (found.usable, found.mtu) == (usable, mtu):
                        return found
            raise AssertionError("the watch ended")

        with inside(box):  # the sockets are made at the first step
            assert await anext(changes) == ("eth0", None)
        assert await anext(changes) == ("10.1.0.1", None)
        lab.cable(box, "eth0", far, "eth0")
        first = await until_seen("eth0", usable=True)
        assert first is not None
        lab.address(box, "eth0", "10.1.0.1/24")
        by_address = await until_seen("10.1.0.1", usable=True)
        assert by_address is not None
        assert by_address.index == first.index
        lab.link(box, "eth0", "mtu", "1300")
        assert await until_seen("eth0", usable=True, mtu=1300)
        lab.link(box, "eth0", "mtu", "9000")
        assert await until_seen("eth0", usable=True, mtu=9000)
        lab.link(box, "eth0", "mtu", "1300")
        assert await until_seen("eth0", usable=True, mtu=1300)
        run_in(box, "ip", "address", "del", "10.1.0.1/24", "dev", "eth0")
        assert await until_seen("10.1.0.1", usable=False) is None
        lab.link(far, "eth0", "down")
        without_carrier = await until_seen("eth0", usable=False, mtu=1300)
        assert without_carrier is not None
        assert without_carrier.up
        lab.unplug(box, "eth0")
        assert await until_seen("eth0", usable=False) is None
        lab.cable(box, "spare0", far, "spare0")
        lab.cable(box, "eth0", far, "eth0")
        again = await until_seen("eth0", usable=True)
        assert again is not None
        assert again.index != first.index


@pytest.mark.asyncio
async def test_a_watch_survives_more_news_than_its_queue_holds(
    lab: Lab, box: str
) -> None:
    lab.cable(box, "eth0", lab.namespace("far"), "eth0")
    async with aclosing(watch_interfaces(["eth0"])) as changes:
        with inside(box):
            name, _ = await anext(changes)
        assert name == "eth0"
        hosts = [f"10.{high}.{low}.1" for high in range(1, 21) for low in range(250)]
        batch = "".join(f"address add {host}/32 dev eth0\n" for host in hosts)
        run_in(box, "ip", "-batch", "-", stdin=batch)  # our loop stands still here
        async with asyncio.timeout(20):
            with inside(box):  # it may open its sockets again
                async for _, found in changes:
                    if found is not None and set(hosts) <= set(found.addresses):
                        break
        lab.link(box, "eth0", "mtu", "1300")
        async with asyncio.timeout(20):
            async for _, found in changes:
                if found is not None and found.mtu == 1300:
                    break
