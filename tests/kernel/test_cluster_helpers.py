"""Sessions that conntrack helpers follow go on at another firewall, and back.

A part of `scripts/helpers`: the stage between what a helper has seen and the data
connection that it expects. Only RELATED is accepted, INVALID dropped, `tcp_loose` and
`tcp_be_liberal` are 0. `docs/testing.md` has the whole table.
"""

import shutil
import tempfile
import time
from ftplib import FTP
from pathlib import Path

import pytest

from tests.kernel import reader
from tests.kernel.helper_lab import AFTER, ANNOUNCED, NATS, V4
from tests.kernel.helper_trial import OK, PLAYS, Trial, cross
from tests.lab import Lab, inside, run_in

pytestmark = pytest.mark.kernel

_LOST_WITH_THE_KERNEL = ("pptp",)  # the helper's own memory of a call
_NEVER_ALIVE = (("h323", 6, "masquerade"), ("h323", 6, "snat"))


@pytest.mark.parametrize("standby", ["table", "kernel"])
def test_what_was_announced_before_a_failover_is_accepted_after_it(
    lab: Lab, tmp_path: Path, standby: str
) -> None:
    plays = [name for name in PLAYS if name not in _LOST_WITH_THE_KERNEL]
    nats = ("none", "masquerade", "dnat")
    outcome = cross(lab, tmp_path, ANNOUNCED, plays, nats, standby=standby)
    words = {c: w for c, w in outcome.words.items() if c not in _NEVER_ALIVE}
    assert set(words.values()) == {OK}, {c: w for c, w in words.items() if w != OK}
    assert not outcome.differences, outcome.differences[:5]


def test_sessions_in_zones_go_on_after_a_power_cut(lab: Lab, tmp_path: Path) -> None:
    zones = '    iifname { "eth0", "eth1" } ct original zone set 8'
    plays = ("ftp-active", "ftp-passive", "irc", "tftp", "sip-register")
    outcome = cross(lab, tmp_path, AFTER, plays, ("masquerade",), cut=True, zones=zones)
    assert set(outcome.words.values()) == {OK}, outcome.words
    assert not outcome.differences, outcome.differences[:5]


@pytest.mark.parametrize("word", ["restrict", "accept", "refuse"])
def test_an_expectation_of_any_source_crosses_as_the_policy_says(
    lab: Lab, tmp_path: Path, word: str
) -> None:
    trial = Trial(
        lab, tmp_path, more=f'[replication]\nwildcard_expectations = "{word}"\n'
    )
    try:
        trial.start()
        first, second = trial.nodes
        trial.begin(("irc",), ("masquerade", "none"))
        trial.advance(1, ANNOUNCED, "before")
        assert len(first.kernel(reader.EXPECTATIONS)) == 2
        kept = 0 if word == "refuse" else 2
        second.wait(
            lambda status: (
                status["tables"]["peer"]["expectations"] == kept
                and status["tables"]["peer"]["flows"] >= 2
            ),
            "it was told",
        )
        assert second.ask("promote")["ok"]
        assert len(second.kernel(reader.EXPECTATIONS)) == kept
        assert len(second.table("peer", "expectations")) == kept
        found = first.status()["wildcard_expectations"]
        assert found["policy"] == word
        assert found["not_told"] == 2 - kept
        first.wait(lambda _: (word in first.log) is (word == "refuse"), "it says so")
    finally:
        trial.close()


def test_broadcasts_of_a_firewall_are_answered_at_the_other_one(
    lab: Lab, tmp_path: Path
) -> None:
    """SNMP: permanent, from a whole network. (What NetBIOS expects lives 3 s.)"""
    trial = Trial(lab, tmp_path, more='[filter]\nown_addresses = "accept"\n')
    try:
        trial.start()
        first, _ = trial.nodes
        run_in(
            *(first.namespace, "python3", "-c"),
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1);"
            "s.bind(('198.51.100.1', 40161));"
            "s.sendto(b'who', ('198.51.100.255', 161))",
        )
        wanted = first.kernel(reader.EXPECTATIONS)
        assert [row["helper"] for row in wanted.values()] == ["snmp"]
        assert [row["flags"] for row in wanted.values()] == [1]
        trial.switch(1, cut=False)
        assert not trial.outcome.differences, trial.outcome.differences
    finally:
        trial.close()


def test_a_session_with_vsftpd_goes_on(lab: Lab, tmp_path: Path) -> None:
    """A real server; behind masquerade, so that each PORT is rewritten."""
    program = shutil.which("vsftpd")
    assert program is not None, "needs the package vsftpd"
    trial = Trial(lab, tmp_path)
    content = bytes(range(256)) * 1000
    root = Path(tempfile.mkdtemp(prefix="syncd-ftp-"))  # where nobody may look
    root.chmod(0o755)
    (root / "file").write_bytes(content)
    settings = tmp_path / "vsftpd.conf"
    settings.write_text(
        "listen=YES\nanonymous_enable=YES\nno_anon_password=YES\nseccomp_sandbox=NO\n"
        f"anon_root={root}\nlocal_enable=NO\nconnect_from_port_20=YES\n"
        f"ftp_username=ftp\nsecure_chroot_dir={root}\n"
    )
    try:
        trial.start()
        talk = trial.crossing.talk(V4, NATS[1])
        lab.start(talk.outer.namespace, program, str(settings))
        time.sleep(0.5)
        with (
            inside(talk.inner.namespace),
            FTP(  # noqa: S321 - what the helper is for
                timeout=5, source_address=(talk.client, 0)
            ) as session,
        ):
            session.connect(talk.target)
            session.login()
            for to, passive in ((1, False), (0, True), (1, False)):
                got: list[bytes] = []
                session.set_pasv(passive)
                session.retrbinary("RETR file", got.append)
                assert b"".join(got) == content
                trial.switch(to, cut=False)
            got = []
            session.retrbinary("RETR file", got.append)
            assert b"".join(got) == content
            session.quit()
        assert not trial.outcome.differences
    finally:
        trial.close()
        shutil.rmtree(root)
