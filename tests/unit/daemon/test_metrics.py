"""A status object comes in, Prometheus text goes out: each family with its words."""

import re

from syncd.daemon.metrics import metrics_text
from syncd.daemon.report import KernelReport, LinkReport, status_object
from syncd.link.facts import LinkState, LinkStatus

from tests.unit.replication.talk import Talk, put


def text() -> str:
    talk = Talk("a", "b")
    put(talk.engines["b"].own, 1, 2, 3)
    talk.run(2)
    engine = talk.engines["a"]
    status = LinkStatus(
        interface='eth"2',
        type="multicast",
        state=LinkState.ACTIVE,
        reason="",
        frame_bytes=1472,
        receive_buffer=1,
        send_buffer=1,
        sent_bytes=100,
        sent_frames=2,
        send_errors=0,
        received_bytes=300,
        received_frames=4,
        rejected_frames=5,
        kernel_drops=0,
    )
    link = LinkReport(status, {"auth": 7}, engine.paths.status(0, talk.now))
    return metrics_text(
        status_object(engine, [link], KernelReport(), None, 0.0, talk.now)
    )


def test_every_family_says_what_it_is_and_once_only() -> None:
    lines = text().splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    types = [line.split()[2:] for line in lines if line.startswith("# TYPE ")]
    assert helps == [name for name, _ in types]
    assert len(set(helps)) == len(helps)
    samples = [line for line in lines if not line.startswith("#")]
    assert {re.split("[ {]", line)[0] for line in samples} == set(helps)
    assert all(re.fullmatch(r"\w+(\{.*\})? [\d.]+", line) for line in samples)


def test_names_are_those_that_promtool_asks_for() -> None:
    """Counters end in _total and nothing else does; units are written out."""
    types = re.findall(r"(?m)^# TYPE (\w+) (\w+)$", text())
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types)
    assert not [name for name, _ in types if re.search(r"_m?s(_total)?$", name)]


def test_figures_have_labels_that_a_quote_cannot_break() -> None:
    found = text()
    assert 'syncd_peer_flows{peer="b"} 3' in found
    assert (
        'syncd_link_rejected_frames_total{link="eth\\"2",place="1",reason="auth"} 7'
        in found
    )
