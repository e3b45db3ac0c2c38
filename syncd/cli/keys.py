"""`syncd keygen` and `syncd keys`: the key file, and the daemon that is told of it.

A key is never printed, only its id. With a running daemon a change is in force when the
command returns, and one that would cut a peer off is refused.
"""

import argparse
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from syncd import keys
from syncd.cli import client
from syncd.config import DEFAULT_SOCKET, SecurityConfig, load
from syncd.errors import ConfigError, ControlError
from syncd.keys import Key, KeyRing

_LINE_BYTES = 4096


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for; the exit status."""
    path, socket = _places(arguments)
    if arguments.command == "keygen":
        key = keys.new_key(_made())
        keys.create(path, KeyRing((key,), key), overwrite=arguments.overwrite)
        text = f"made key {key.id.hex()} in {path}: copy the file to every node"
        return _say(arguments, {"file": path, "key": key.id.hex()}, text, None)
    actions: dict[str, Callable[[], int]] = {
        "list": lambda: _list(arguments, path, _ask(socket, arguments, "list")),
        "add": lambda: _add(arguments, path, socket),
        "use": lambda: _use(arguments, path, socket),
        "drop": lambda: _drop(arguments, path, socket),
    }
    return actions[arguments.action]()


def _places(arguments: argparse.Namespace) -> tuple[str, str]:
    """The key file and the socket; without a configuration those of the default."""
    path, socket = arguments.key_file, arguments.socket
    if path is None or socket is None:
        config = None
        try:
            config = load(arguments.config)
        except ConfigError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        default = config.security.key_file if config else SecurityConfig().key_file
        path = path or default
        socket = socket or (config.control.socket if config else DEFAULT_SOCKET)
    return path, socket


def _list(
    arguments: argparse.Namespace, path: str, daemon: client.Answer | None
) -> int:
    ring = keys.load(path)
    rows = [
        {
            "id": key.id.hex(),
            "sending": key == ring.sending,
            "comment": key.comment,
            "peers": [
                str(peer["node"])
                for peer in _peers(daemon)
                if key.id.hex() in _ids(peer)
            ],
        }
        for key in ring.keys
    ]
    lines = []
    for row in rows:
        words = [str(row["id"]), "in use" if row["sending"] else "      "]
        if row["peers"]:
            words.append("known to " + ", ".join(map(str, _items(row["peers"]))))
        lines.append("  ".join([*words, str(row["comment"])]).rstrip())
    sending = daemon.get("sending") if daemon is not None else None
    if sending and sending != ring.sending.id.hex():
        lines.append(
            f"the daemon has not read this file yet (SIGHUP), it seals with {sending}"
        )
    return _say(arguments, {"file": path, "keys": rows}, "\n".join(lines), daemon)


def _add(arguments: argparse.Namespace, path: str, socket: str) -> int:
    key = keys.new_key(arguments.comment or _made())
    if arguments.stdin:
        key = keys.read_key(sys.stdin.readline(_LINE_BYTES).strip(), "standard input")
        if arguments.comment:
            key = replace(key, comment=arguments.comment)

    def edit(ring: KeyRing) -> KeyRing:
        if any(key.id == other.id for other in ring.keys):
            raise ConfigError([f"{path}: key {key.id.hex()} is there already"])
        if len(ring.keys) >= keys.KEYS_LIMIT:
            raise ConfigError([f"{path}: has {keys.KEYS_LIMIT} keys, drop one first"])
        return replace(ring, keys=(*ring.keys, key))

    keys.change(path, edit)
    return _tell(arguments, path, socket, key, "added")


def _use(arguments: argparse.Namespace, path: str, socket: str) -> int:
    key = keys.load(path).find(arguments.id)
    without = [
        str(peer["node"])
        for peer in _peers(_ask(socket, arguments, "list"))
        if key.id.hex() not in _ids(peer)
    ]
    if without and not arguments.force:
        raise ControlError(
            f"{', '.join(without)} cannot open frames of key {key.id.hex()} yet: "
            "add it there first, or use --force"
        )
    keys.change(path, lambda ring: replace(ring, sending=ring.find(key.id.hex())))
    return _tell(arguments, path, socket, key, "in use")


def _drop(arguments: argparse.Namespace, path: str, socket: str) -> int:
    ring = keys.load(path)
    key = ring.find(arguments.id)
    _require_idle(key, ring, path)
    sealing = [
        str(peer["node"])
        for peer in _peers(_ask(socket, arguments, "list"))
        if peer.get("seals_with") == key.id.hex()
    ]
    if sealing and not arguments.force:
        raise ControlError(
            f"{', '.join(sealing)} still seals with key {key.id.hex()}: tell it to use "
            "another one first, or use --force"
        )

    def edit(ring: KeyRing) -> KeyRing:
        _require_idle(key, ring, path)
        kept = tuple(other for other in ring.keys if other.id != key.id)
        return replace(ring, keys=kept)

    keys.change(path, edit)
    return _tell(arguments, path, socket, key, "dropped")


def _require_idle(key: Key, ring: KeyRing, path: str) -> None:
    if ring.sending.id == key.id:
        problem = f'key {key.id.hex()} is in use, first "syncd keys use" another'
        raise ConfigError([f"{path}: {problem}"])


def _tell(
    arguments: argparse.Namespace, path: str, socket: str, key: Key, done: str
) -> int:
    """Have the daemon read the file; say what came of it."""
    daemon = _ask(socket, arguments, "reload")
    text = f"key {key.id.hex()} {done} in {path}"
    if daemon is None:
        text += "; no daemon answers here, it will read the file when it starts"
    elif daemon.get("ok") is not True:
        text += f"; the daemon refused it: {daemon.get('error')}"
    answer = {"file": path, "key": key.id.hex(), "done": done}
    return _say(arguments, dict(answer), text, daemon)


def _ask(socket: str, arguments: argparse.Namespace, what: str) -> client.Answer | None:
    """The daemon's answer, None when there is no daemon."""
    with contextlib.suppress(ControlError):
        options = {"what": what, "timeout": arguments.timeout}
        return client.ask_once(socket, "keys", options, quick=True)
    return None


def _say(
    arguments: argparse.Namespace,
    answer: Mapping[str, object],
    text: str,
    daemon: client.Answer | None,
) -> int:
    failed = daemon is not None and daemon.get("ok") is not True
    if arguments.json:
        print(json.dumps({**answer, "daemon": daemon, "ok": not failed}, indent=2))
    else:
        print(text, file=sys.stderr if failed else sys.stdout)
    return client.outcome(daemon) if daemon is not None else 0


def _peers(daemon: client.Answer | None) -> list[Mapping[str, object]]:
    peers = [] if daemon is None else _items(daemon.get("peers"))
    return [peer for peer in peers if isinstance(peer, Mapping)]


def _ids(peer: Mapping[str, object]) -> list[object]:
    return _items(peer.get("keys"))


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _made() -> str:
    return f"made {time.strftime('%Y-%m-%d')} on {platform.node()}"
