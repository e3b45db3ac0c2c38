"""The catalogue of faults. Each begins, lasts and is over when its function returns.

In: a `Stage`. The rule: a fault hurts what an operator's network, machine or hand could
hurt, from outside of the daemons; what it changed is as it was when it is over.
"""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.kernel.cluster import Node
from tests.kernel.trial import Fault, Stage
from tests.lab import run, run_in, stop

RELAY = Path(__file__).with_name("relay.py")
MTUS = (576, 1280, 9000, 1500)
HOSTILE = {"loss": 0.02, "double": 0.2, "late": 0.3, "late_s": 0.05, "corrupt": 0.05}
_FLAP_S = 0.3
_SLOW_S = 0.4
_CLOCKS_S = (1_000_000, 86_400)

Pick = Callable[[Stage], Node]


def _primary(stage: Stage) -> Node:
    return stage.primary


def _standby(stage: Stage) -> Node:
    return stage.standby


def lose(stage: Stage, percent: int) -> None:
    """The switch drops so many of a hundred frames, for each receiver anew."""
    if _has_netem(stage):
        ports = [port for node in stage.made.nodes for port in stage.ports(node)]
        words = ("root", "netem", "loss", f"{percent}%")
        for port in ports:
            run_in(stage.made.switch, "tc", "qdisc", "add", "dev", port, *words)
        stage.last(10, 3)
        for port in ports:
            run_in(stage.made.switch, "tc", "qdisc", "delete", "dev", port, "root")
        return
    with stage.switch_rules(f"numgen random mod 100 < {percent} drop"):
        stage.last(10, 3)


def _has_netem(stage: Stage) -> bool:
    words = ("dev", "lo", "root", "netem", "loss", "0%")
    try:
        run_in(stage.made.switch, "tc", "qdisc", "add", *words)
    except RuntimeError:
        return False
    run_in(stage.made.switch, "tc", "qdisc", "delete", "dev", "lo", "root")
    return True


def part(stage: Stage, pick: Pick) -> None:
    """Nothing comes through to or from one node; nobody sees a carrier go."""
    ports = ", ".join(f'"{port}"' for port in stage.ports(pick(stage)))
    with stage.switch_rules(
        f"iifname {{ {ports} }} drop", f"oifname {{ {ports} }} drop"
    ):
        stage.last(60, 5)


def deafen(stage: Stage) -> None:
    """What the primary says does not reach one standby; it is heard itself."""
    one, other = stage.port(stage.primary), stage.port(stage.standby)
    with stage.switch_rules(f'iifname "{one}" oifname "{other}" drop'):
        stage.last(10, 5)


def flap_alternately(stage: Stage) -> None:
    """Of two links of the primary one is always down, now this one, now the other."""
    node = stage.primary
    end = time.monotonic() + stage.lasting(15, 5)
    while time.monotonic() < end:
        for name in stage.interfaces:
            stage.made.lab.link(node.namespace, name, "down")
            time.sleep(2 * _FLAP_S)
            stage.made.lab.link(node.namespace, name, "up")
            time.sleep(_FLAP_S)


def slow_and_cut(stage: Stage) -> None:
    """A standby runs only half of the time while the first link fails for all."""
    ports = ", ".join(f'"{stage.port(node)}"' for node in stage.made.nodes)
    end = time.monotonic() + stage.lasting(20, 6)
    with stage.switch_rules(f"iifname {{ {ports} }} drop"):
        while time.monotonic() < end:
            for number in (signal.SIGSTOP, signal.SIGCONT):
                stage.standby.send_signal(number)
                time.sleep(_SLOW_S)


def cut_crosswise(stage: Stage) -> None:
    """What the primary says is lost on one link, what a standby says on the other."""
    one = stage.port(stage.primary, "eth2")
    other = stage.port(stage.standby, stage.interfaces[-1])
    with stage.switch_rules(f'iifname "{one}" drop', f'iifname "{other}" drop'):
        stage.last(15, 5)


def freeze(stage: Stage, pick: Pick) -> None:
    """SIGSTOP for a while."""
    node = pick(stage)
    node.send_signal(signal.SIGSTOP)
    try:
        stage.last(10, 4)
    finally:
        node.send_signal(signal.SIGCONT)


def kill(stage: Stage, pick: Pick) -> None:
    """SIGKILL and a new start, again and again, at all stages of its life."""
    node = pick(stage)
    for number in range(stage.times(10, 3)):
        node.kill()
        node.start()
        time.sleep((0.1, 0.4, 0.8, 1.6)[number % 4])


def flap(stage: Stage, pick: Pick, at_switch: bool) -> None:
    """A link that goes down and up all the time."""
    node = pick(stage)
    where, name = node.namespace, "eth2"
    if at_switch:
        where, name = stage.made.switch, stage.port(node)
    end = time.monotonic() + stage.lasting(10, 3)
    while time.monotonic() < end:
        for state in ("down", "up"):
            stage.made.lab.link(where, name, state)
            time.sleep(_FLAP_S)


def remake_interface(stage: Stage, pick: Pick) -> None:
    """The sync interface is deleted; later there is a new one of that name."""
    node = pick(stage)
    stage.unplug(node)
    stage.last(5, 2)
    stage.plug(node)


def remake_address(stage: Stage, pick: Pick) -> None:
    """The sync address is taken away and given back."""
    node = pick(stage)
    stage.address(node, "delete")
    stage.last(5, 2)
    stage.address(node, "add")


def change_mtu(stage: Stage) -> None:
    """Other MTUs, on one node after the other, then at the switch."""
    lab, made = stage.made.lab, stage.made
    for mtu in MTUS:
        places = [(node.namespace, "eth2") for node in made.nodes]
        ports = [(made.switch, stage.port(node)) for node in made.nodes]
        # A path never gets narrower than what is sent through it.
        current = _mtu(made.nodes[0])
        order = places + ports if mtu < current else ports + places
        for namespace, name in order:
            lab.link(namespace, name, "mtu", str(mtu))
        stage.last(4, 1)


def _mtu(node: Node) -> int:
    shown = run("ip", "-n", node.namespace, "-j", "link", "show", "eth2")
    return int(json.loads(shown)[0]["mtu"])


def narrow_path(stage: Stage) -> None:
    """One node gets a smaller MTU; the others do not hear of it."""
    node = stage.standby
    port = stage.port(node)
    stage.made.lab.link(node.namespace, "eth2", "mtu", "576")
    stage.made.lab.link(stage.made.switch, port, "mtu", "576")
    stage.last(8, 2)
    stage.made.lab.link(stage.made.switch, port, "mtu", "1500")
    stage.made.lab.link(node.namespace, "eth2", "mtu", "1500")


def narrow_switch(stage: Stage) -> None:
    """The switch carries no frame of more than 800 bytes; no node can know that."""
    ports = ", ".join(f'"{stage.port(node)}"' for node in stage.made.nodes)
    with stage.switch_rules(f"iifname {{ {ports} }} meta length > 800 drop"):
        stage.last(20, 6)


def mistreat(stage: Stage) -> None:
    """A relay takes the switch's place: it doubles, delays, reorders, corrupts."""
    switch = stage.made.switch
    ports = [stage.port(node) for node in stage.made.nodes]
    for port in ports:
        run("ip", "-n", switch, "link", "set", port, "nomaster")
    # In the clear nothing but the UDP checksum tells a corrupted frame.
    order = HOSTILE | {"unsummed": stage.sealed}
    words = (sys.executable, str(RELAY), ",".join(ports), json.dumps(order))
    relay = stage.made.lab.start(switch, *words, output=None)
    stage.last(15, 4)
    stop(relay)
    for port in ports:
        run("ip", "-n", switch, "link", "set", port, "master", "bridge")


def turn_clocks(stage: Stage) -> None:
    """Daemons start anew with other monotonic clocks, as after a boot."""
    for node, offset_s in zip(stage.made.nodes, _CLOCKS_S, strict=False):
        node.kill()
        words = ("--monotonic", str(offset_s), "--boottime", str(offset_s))
        node.start(shutil.which("unshare") or "unshare", "-T", *words)
        stage.last(3, 1)


def empty_kernel(stage: Stage) -> None:
    """Somebody flushes the primary's kernel, more than once."""
    for _ in range(stage.times(5, 2)):
        run_in(stage.primary.namespace, "conntrack", "-F")
        stage.watch.begin_anew()
        stage.last(1, 0.5)


def restart_all(stage: Stage) -> None:
    """All daemons die at once, as if the power had gone, and start again."""
    for node in stage.made.nodes:
        node.kill()
    stage.last(1, 0.3)
    for node in stage.made.nodes:
        node.start()


def _faults() -> dict[str, Fault]:
    made: list[tuple[str, Callable[[Stage], None]]] = [
        (f"loss-{percent}", partial(lose, percent=percent))
        for percent in (1, 5, 20, 50)
    ]
    made.append(("deaf-standby", deafen))
    for word, pick in (("primary", _primary), ("standby", _standby)):
        made += [
            (f"partition-{word}", partial(part, pick=pick)),
            (f"stop-{word}", partial(freeze, pick=pick)),
            (f"kill-{word}", partial(kill, pick=pick)),
            (f"flap-{word}", partial(flap, pick=pick, at_switch=False)),
            (f"flap-switch-{word}", partial(flap, pick=pick, at_switch=True)),
            (f"interface-{word}", partial(remake_interface, pick=pick)),
            (f"address-{word}", partial(remake_address, pick=pick)),
        ]
    made += [
        ("mtu", change_mtu),
        ("narrow-path", narrow_path),
        ("narrow-switch", narrow_switch),
        ("mistreat", mistreat),
        ("clocks", turn_clocks),
        ("flush", empty_kernel),
        ("power", restart_all),
        ("flap-alternately", flap_alternately),
        ("slow-and-cut", slow_and_cut),
        ("crosswise", cut_crosswise),
    ]
    return {name: Fault(name, apply, _sentence(apply)) for name, apply in made}


def _sentence(apply: Callable[[Stage], None]) -> str:
    function = apply.func if isinstance(apply, partial) else apply
    return (function.__doc__ or "").splitlines()[0]


FAULTS = _faults()
TWO = ("flap-alternately", "slow-and-cut", "crosswise")  # for two links only
