"""`syncd timeouts`: how long the kernel keeps a flow, by protocol and state.

What nfct(8) does with timeouts, in its words and its output. The kernel is asked by
this side itself; no daemon is needed.
"""

import argparse
import difflib
import errno
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from syncd.errors import ControlError, KernelError
from syncd.kernel import policies
from syncd.kernel.policies import FAMILIES, LONGEST_S, NAME_BYTES, PROTOCOLS, Policy

# States that nfct 1.4.7 does not print, though the kernel has them.
_UNPRINTED: Final = frozenset(("HEARTBEAT_SENT", "HEARTBEAT_ACKED"))
_FAMILY_NAMES: Final = {number: name for name, number in FAMILIES.items()}


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for; the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "get": _get,
        "add": _add,
        "set": _set,
        "delete": _delete,
        "flush": _flush,
        "defaults": _defaults,
        "default-get": _default_get,
        "default-set": _default_set,
    }
    return actions[arguments.action](arguments)


def text_of(policy: Policy) -> str:
    """As nfct prints it; lines without the last line end."""
    lines = [f".{policy.name} = {{"] if policy.name else []
    lines += [
        f"\t.l3proto = {policy.family},",
        f"\t.l4proto = {policy.number},",
        "\t.policy = {",
    ]
    lines += [
        f"\t\t.{state} = {seconds},"
        for state, seconds in policy.seconds.items()
        if state not in _UNPRINTED
    ]
    return "\n".join([*lines, "\t},", "};"])


def object_of(policy: Policy) -> dict[str, object]:
    """What `--json` prints, one object a line."""
    return {
        **({"name": policy.name} if policy.name else {"default": True}),
        "family": _FAMILY_NAMES.get(policy.family, str(policy.family)),
        "protocol": policy.protocol,
        "protocol_number": policy.number,
        "seconds": dict(policy.seconds),
        **({"use": policy.use} if policy.name else {}),
    }


def _print(arguments: argparse.Namespace, found: Iterable[Policy]) -> int:
    for policy in found:
        print(json.dumps(object_of(policy)) if arguments.json else text_of(policy))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    return _print(arguments, policies.list_policies())


def _get(arguments: argparse.Namespace) -> int:
    return _print(arguments, [policies.get_policy(_name(arguments.name))])


def _defaults(arguments: argparse.Namespace) -> int:
    """All protocols that this kernel tracks."""
    found = []
    for protocol in PROTOCOLS:
        try:
            found.append(policies.get_default(protocol))
        except KernelError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
    return _print(arguments, found)


def _default_get(arguments: argparse.Namespace) -> int:
    family = _known("family", arguments.family, FAMILIES)
    protocol = _protocol(arguments.protocol)
    return _print(arguments, [policies.get_default(protocol, FAMILIES[family])])


def _add(arguments: argparse.Namespace) -> int:
    family = FAMILIES[_known("family", arguments.family, FAMILIES)]
    protocol = _protocol(arguments.protocol)
    number, _ = PROTOCOLS[protocol]
    seconds = _seconds(protocol, arguments.seconds)
    name = _name(arguments.name)
    policies.add_policy(Policy(name, family, number, seconds))
    return _say(arguments, f"added timeout policy {name}", name)


def _set(arguments: argparse.Namespace) -> int:
    name = _name(arguments.name)
    protocol = policies.get_policy(name).protocol
    policies.change_policy(name, _seconds(protocol, arguments.seconds))
    return _say(arguments, f"changed timeout policy {name}", name)


def _delete(arguments: argparse.Namespace) -> int:
    name = _name(arguments.name)
    policies.delete_policy(name)
    return _say(arguments, f"deleted timeout policy {name}", name)


def _flush(arguments: argparse.Namespace) -> int:
    policies.flush_policies()
    return _say(arguments, "deleted all timeout policies", None)


def _default_set(arguments: argparse.Namespace) -> int:
    family = FAMILIES[_known("family", arguments.family, FAMILIES)]
    protocol = _protocol(arguments.protocol)
    seconds = _seconds(protocol, arguments.seconds)
    policies.set_default(protocol, seconds, family)
    return _say(arguments, f"changed default timeouts of {protocol}", None)


def _say(arguments: argparse.Namespace, text: str, name: str | None) -> int:
    if arguments.json:
        print(json.dumps({"ok": True, **({"name": name} if name else {})}))
    else:
        print(text)
    return 0


def _name(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        problem = "printable ASCII characters without spaces are allowed"
    elif not 1 <= len(text) <= NAME_BYTES:
        problem = f"1 to {NAME_BYTES} characters are allowed"
    else:
        return text
    raise ControlError(f"policy name {text!r}: {problem}", status=2)


def _protocol(text: str) -> str:
    return _known("protocol", text.lower(), PROTOCOLS)


def _known(what: str, text: str, known: Mapping[str, object]) -> str:
    if text in known:
        return text
    hint = _hint(text, list(known))
    problem = f"unknown {what} {text!r}{hint}; {', '.join(known)} are known"
    raise ControlError(problem, status=2)


def _seconds(protocol: str, words: Sequence[str]) -> dict[str, int]:
    """Pairs of a state and its seconds."""
    _, states = PROTOCOLS[protocol]
    seconds: dict[str, int] = {}
    if not words or len(words) % 2:
        problem = "give pairs of STATE SECONDS, such as " + f"{states[0].lower()} 60"
        raise ControlError(f"timeouts of {protocol}: {problem}", status=2)
    for state, number in zip(words[::2], words[1::2], strict=True):
        name = state.upper()
        if name not in states:
            hint = _hint(name, states)
            problem = f"unknown state {state!r} of {protocol}{hint}; "
            problem += f"{', '.join(states).lower()} are known"
            raise ControlError(problem, status=2)
        if not number.isdecimal() or not number.isascii() or int(number) > LONGEST_S:
            problem = f"{state} {number}: whole seconds from 0 to {LONGEST_S}"
            raise ControlError(f"timeouts of {protocol}: {problem}", status=2)
        seconds[name] = int(number)
        if not seconds[name]:
            text = f"{protocol} {state} 0: flows in that state end at once"
            print(f"syncd: warning: {text}", file=sys.stderr)
    return seconds


def _hint(text: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, known, 1)
    return f", did you mean {close[0].lower()}?" if close else ""
