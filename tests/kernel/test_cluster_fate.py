"""Real daemons on kernels that are set differently: each difference is named."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run_in, sysctl

pytestmark = pytest.mark.kernel

ESTABLISHED = "nf_conntrack_tcp_timeout_established"
LIBERAL = "nf_conntrack_tcp_be_liberal"


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(lab, tmp_path)
    try:
        yield made
    finally:
        made.close()


def put(node: Node, name: str, value: int) -> None:
    sysctl(node.namespace, f"net.netfilter.{name}", value)


# What JSON says.
def settings(status: dict[str, Any]) -> dict[str, Any]:
    [peer] = status["peers"]
    found: dict[str, Any] = peer["settings"]
    return found


def test_status_and_verify_name_each_difference_until_there_is_none(
    pair: Cluster,
) -> None:
    first, second = pair.nodes
    put(second, ESTABLISHED, 3600)
    pair.start()
    different = [{"what": ESTABLISHED, "here": 432000, "there": 3600}]
    status = first.wait(lambda s: settings(s)["equal"] is False, "they are compared")
    assert settings(status)["differences"] == different
    second.wait(
        lambda s: (
            settings(s)["differences"]
            == [{"what": ESTABLISHED, "here": 3600, "there": 432000}]
        ),
        "the other one knows as well",
    )
    line = f"{ESTABLISHED}: 432000 here, 3600 there"
    assert f"kernels fw2  {line}" in first.command("status").stdout
    first.wait(lambda _: line in first.log, "the log says so")
    assert first.log.count(line) == 1

    put(first, LIBERAL, 1)
    verified = first.ask("verify")
    assert verified["ok"] is True
    [row] = verified["peers"]
    assert row["settings"]["differences"] == [
        {"what": LIBERAL, "here": 1, "there": 0},
        *different,
    ]
    done = first.command("verify")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == [
        "fw2: equal",
        f"  {LIBERAL}: 1 here, 0 there",
        f"  {line}",
    ]
    metrics = first.command("metrics").stdout
    assert 'syncd_peer_settings_different{peer="fw2"} 2' in metrics

    put(first, LIBERAL, 0)
    put(second, ESTABLISHED, 432000)
    first.send_signal(signal.SIGHUP)
    second.send_signal(signal.SIGHUP)
    for node in pair.nodes:
        node.wait(lambda s: settings(s)["equal"] is True, "they are set alike")
    first.wait(lambda _: "are set alike now" in first.log, "the log says so")
    assert first.command("verify").stdout.splitlines() == ["fw2: equal"]


def test_timeout_policies_are_compared_by_state_those_of_rulesets_too(
    pair: Cluster,
) -> None:
    first, second = pair.nodes
    rules = (
        "table ip t {{ ct timeout slow {{ protocol udp; l3proto ip;"
        " policy = {{ unreplied: {}, replied: 22 }}; }}; }}"
    )
    web = ("nfct", "add", "timeout", "web", "inet", "tcp", "established")
    run_in(first.namespace, *web, "100")
    run_in(second.namespace, *web, "200")
    run_in(first.namespace, "nft", rules.format(11))
    run_in(second.namespace, "nft", rules.format(12))
    pair.start()
    status = first.wait(lambda s: settings(s)["equal"] is False, "they are compared")
    assert settings(status)["differences"] == [
        {"what": "ct timeout ip t slow inet udp UNREPLIED", "here": 11, "there": 12},
        {"what": "policy web inet tcp ESTABLISHED", "here": 100, "there": 200},
    ]
    run_in(first.namespace, "nfct", "delete", "timeout", "web")
    run_in(first.namespace, *web, "200")
    run_in(first.namespace, "nft", "delete table ip t")
    run_in(first.namespace, "nft", rules.format(12))
    assert first.ask("verify")["peers"][0]["settings"]["differences"] == []
    run_in(first.namespace, "nfct", "delete", "timeout", "web")
    row = first.ask("verify")["peers"][0]
    assert {item["here"] for item in row["settings"]["differences"]} == {None}
    assert len(row["settings"]["differences"]) > 8
    run_in(second.namespace, "nfct", "delete", "timeout", "web")
    first.wait(lambda s: settings(s)["equal"] is True, "the change was seen", 10)
