"""`syncd timeouts` beside the real nfct: each sees what the other one did."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Lab

PROJECT = Path(__file__).parents[2]

PROTOCOLS = {
    "tcp": (
        *("syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack"),
        *("time_wait", "close", "syn_sent2", "retrans", "unacknowledged"),
    ),
    "udp": ("unreplied", "replied"),
    "udplite": ("unreplied", "replied"),
    "icmp": ("timeout",),
    "icmpv6": ("timeout",),
    "sctp": (
        *("closed", "cookie_wait", "cookie_echoed", "established"),
        *("shutdown_sent", "shutdown_recd", "shutdown_ack_sent"),
    ),
    "gre": ("unreplied", "replied"),
    "generic": ("timeout",),
}


@pytest.fixture
def namespace(lab: Lab) -> str:
    return lab.namespace("timeouts")


class Kernel:
    """Both commands in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.inside = ("ip", "netns", "exec", namespace)

    def nfct(self, *words: str) -> str:
        command = [*self.inside, "nfct", *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.inside, sys.executable, "-m", "syncd", "timeouts", *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=PROJECT
        )

    def syncd(self, *words: str) -> str:
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture
def kernel(namespace: str) -> Kernel:
    return Kernel(namespace)


def pairs(states: tuple[str, ...], chance: random.Random) -> list[str]:
    """Some states, each with a number of seconds."""
    some = chance.sample(states, chance.randint(1, len(states)))
    return [word for s in some for word in (s, str(chance.randint(1, 900_000)))]


def test_what_nfct_sets_is_printed_alike(kernel: Kernel) -> None:
    chance = random.Random(1)
    for protocol, states in PROTOCOLS.items():
        for family in ("inet", "inet6"):
            name = f"{protocol}-{family}"
            words = pairs(states, chance)
            kernel.nfct("add", "timeout", name, family, protocol, *words)
            told = kernel.nfct("get", "timeout", name)
            assert kernel.syncd("get", name) == told
            kernel.nfct("default-set", "timeout", family, protocol, *words)
            told = kernel.nfct("default-get", "timeout", family, protocol)
            assert kernel.syncd("default-get", family, protocol) == told
    assert kernel.syncd("list") == kernel.nfct("list", "timeout")


def test_what_is_set_here_nfct_sees(kernel: Kernel) -> None:
    chance = random.Random(2)
    for protocol, states in PROTOCOLS.items():
        first, then = pairs(states, chance), pairs(states, chance)
        kernel.syncd("add", protocol, "inet", protocol, *first)
        kernel.syncd("set", protocol, *then)
        kernel.nfct("add", "timeout", "judge", "inet", protocol, *first, *then)
        wanted = kernel.nfct("get", "timeout", "judge").replace("judge", protocol)
        kernel.nfct("delete", "timeout", "judge")
        assert kernel.nfct("get", "timeout", protocol) == wanted
        kernel.syncd("default-set", "inet6", protocol, *then)
        told = kernel.nfct("default-get", "timeout", "inet", protocol)
        for state, seconds in zip(then[::2], then[1::2], strict=True):
            assert f".{state.upper()} = {seconds}," in told
    kernel.syncd("delete", "gre")
    assert ".gre = {" not in kernel.nfct("list", "timeout")
    kernel.syncd("flush")
    assert kernel.nfct("list", "timeout") == ""


def test_json_is_an_object_a_line(kernel: Kernel) -> None:
    kernel.syncd("add", "voip", "inet6", "udp", "replied", "600")
    (line,) = kernel.syncd("list", "--json").splitlines()
    assert json.loads(line) == {
        "name": "voip",
        "family": "inet6",
        "protocol": "udp",
        "protocol_number": 17,
        "seconds": {"UNREPLIED": 30, "REPLIED": 600},
        "use": 0,
    }
    rows = [json.loads(row) for row in kernel.syncd("defaults", "--json").splitlines()]
    assert {row["protocol"] for row in rows} >= PROTOCOLS.keys()
    assert all(row["default"] for row in rows)


def test_a_policy_of_a_rule_is_seen_and_kept(kernel: Kernel) -> None:
    kernel.syncd("add", "short", "inet", "tcp", "established", "77")
    rule = "iptables -t raw -A PREROUTING -p tcp -j CT --timeout short"
    subprocess.run([*kernel.inside, *rule.split()], check=True)
    assert json.loads(kernel.syncd("get", "short", "--json"))["use"] == 1
    refused = kernel.run("delete", "short")
    assert refused.returncode == 1
    assert "a rule refers to it" in refused.stderr
    kernel.syncd("set", "short", "established", "78")
    assert ".ESTABLISHED = 78," in kernel.nfct("get", "timeout", "short")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("get nobody", 1, "there is none of this name"),
        ("delete nobody", 1, "there is none of this name"),
        ("set nobody established 3", 1, "there is none of this name"),
        ("add a inet tpc established 3", 2, "did you mean tcp?"),
        ("add a inet tcp establised 3", 2, "did you mean established?"),
        ("add a inet tcp established", 2, "pairs of STATE SECONDS"),
        ("add a inet tcp established -3", 2, "whole seconds"),
        ("add a inet tcp established 99999999999", 2, "whole seconds"),
        ("add a inet7 tcp established 3", 2, "did you mean inet?"),
        (f"add {'a' * 32} inet tcp established 3", 2, "1 to 31 characters"),
        ("default-get inet dccp", 1, "does not track the protocol"),
        ("lst", 2, "did you mean list?"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    kernel: Kernel, words: str, status: int, text: str
) -> None:
    done = kernel.run(*words.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_is_given_once(kernel: Kernel) -> None:
    kernel.syncd("add", "once", "inet", "udp", "replied", "60")
    again = kernel.run("add", "once", "inet", "udp", "replied", "60")
    assert again.returncode == 1
    assert "it exists already" in again.stderr


def test_a_timeout_of_nothing_is_taken_as_the_kernel_takes_it_and_warned_of(
    kernel: Kernel,
) -> None:
    done = kernel.run("default-set", "inet", "udp", "unreplied", "0", "replied", "9")
    assert done.returncode == 0
    assert done.stderr == (
        "syncd: warning: udp unreplied 0: flows in that state end at once\n"
    )
    assert ".UNREPLIED = 0," in kernel.nfct("timeout", "default-get", "inet", "udp")
