"""The command `syncd`: arguments come in, an exit status goes out.

0 done and true, 1 failed or "no", 2 usage or configuration error, 3 no daemon answers,
4 not permitted. A client command starts fast: the module of the one command that is
asked for is loaded by its name, and nothing else.
"""

import argparse
import contextlib
import importlib
import os
import sys
from types import ModuleType
from typing import Final

from syncd import __version__, build
from syncd.cli.options import (
    SHOW_EXAMPLES,
    TIMEOUTS_EXAMPLES,
    WATCH_EXAMPLES,
    Parser,
    add_show,
    add_timeouts,
    add_watch,
)
from syncd.errors import ConfigError, ControlError, KernelError, SyncdError

_DEFAULT_CONFIG: Final = "/etc/syncd/syncd.toml"
_NOT_PERMITTED: Final = (1, 13)  # EPERM, EACCES
_NO_ROOM: Final = (5, 9, 27, 28, 122)  # EIO, EBADF, EFBIG, ENOSPC, EDQUOT

# Command -> what it does, the module whose run() does it.
_CLIENTS: Final = {
    "status": ("node, role, tables, peers, links, kernel", "syncd.cli.status"),
    "commit": ("put the peers' flows into this kernel", "syncd.cli.verbs"),
    "flush": ("forget one table", "syncd.cli.verbs"),
    "resync": ("ask for, send or read everything again", "syncd.cli.verbs"),
    "promote": ("take over: the whole step to primary", "syncd.cli.verbs"),
    "demote": ("the whole step to backup", "syncd.cli.verbs"),
    "fault": ("the whole step out of service", "syncd.cli.verbs"),
    "verify": ("compare digests with the peers", "syncd.cli.verbs"),
    "metrics": ("the figures of status for Prometheus", "syncd.cli.status"),
    "show": ("list flows or expectations", "syncd.cli.show"),
    "watch": ("the live event stream", "syncd.cli.watch"),
    "stop": ("stop the daemon", "syncd.cli.verbs"),
}
_EXAMPLES: Final = {
    "show": SHOW_EXAMPLES,
    "timeouts": TIMEOUTS_EXAMPLES,
    "watch": WATCH_EXAMPLES,
}
_TIMEOUTS: Final = "timeout policies and defaults of this kernel"
_KEYS: Final = {
    "keygen": "make a key file",
    "keys": "the keys that frames are sealed and opened with",
}


def main(words: list[str] | None = None) -> int:
    """Run the command; nothing but a status comes out, never a traceback."""
    try:
        _open_closed_streams()
        words = sys.argv[1:] if words is None else words
        status = _run(_read(words))
        sys.stdout.flush()  # what cannot be written is to fail here, not at the end
        return status
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 4 if isinstance(error.__cause__, PermissionError) else 2
    except ControlError as error:
        return _refuse(str(error), error.status)
    except KernelError as error:
        return _refuse(str(error), 4 if error.errno in _NOT_PERMITTED else 1)
    except SyncdError as error:
        return _refuse(str(error), 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as error:
        _discard_output()
        return _refuse(_failure(error), 1)
    except Exception as error:  # noqa: BLE001 - the edge of the program
        return _refuse(f"unexpected error: {type(error).__name__}: {error}", 1)


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.command
    if command == "run":
        return int(_room("syncd.daemon.service").run(arguments.config))
    if command == "check-config":
        return int(_room("syncd.cli.check").run(arguments))
    if command in _KEYS:
        return int(_room("syncd.cli.keys").run(arguments))
    if command == "timeouts":
        return int(_room("syncd.cli.timeouts").run(arguments))
    if arguments.socket is None:
        if _asks_the_kernel(arguments):
            arguments.socket = _socket_if_it_runs(arguments.config)
        else:
            kernel_too = command in ("show", "watch")
            arguments.socket = _socket_path(arguments.config, kernel_too=kernel_too)
    return int(_room(_CLIENTS[command][1]).run(arguments))


def _asks_the_kernel(arguments: argparse.Namespace) -> bool:
    if arguments.command == "flush":
        return False
    table = getattr(arguments, "table", None)
    is_default = arguments.command == "watch" and arguments.peer is None
    return table == "kernel" or (table is None and is_default)


def _socket_if_it_runs(config: str) -> str | None:
    """The kernel can be asked without a daemon, unless one was named."""
    if config == _DEFAULT_CONFIG:
        return None
    known = _room("syncd.cli.client").known_socket(config)
    return None if known is None else str(known)


def _room(name: str) -> ModuleType:
    # The one place where a module is loaded by name: `syncd status` has no use for
    # asyncio, nor for msgpack and pyroute2, which only the daemon needs.
    return importlib.import_module(name)


def _socket_path(config: str, *, kernel_too: bool) -> str:
    """Ask the daemon whether the file is in force; only if it is not, check it.

    What is wrong in a file that nobody has read yet is no reason to fail over late.
    """
    client = _room("syncd.cli.client")
    known = client.known_socket(config)
    if known is not None:
        return str(known)
    reader = _room("syncd.config")
    try:
        return str(reader.load(config).control.socket)
    except ConfigError as error:
        serving = client.serving(config, reader.DEFAULT_SOCKET)
        if serving is not None:
            wrong = error.problems[0]
            print(f"the daemon runs with an earlier file: {wrong}", file=sys.stderr)
            return str(serving)
        if not isinstance(error.__cause__, OSError):
            raise
        status, problem = 2, f"{error} or --socket PATH"
        if isinstance(error.__cause__, PermissionError):
            status, problem = 4, f"{error}, ask as root or give --socket PATH"
        if config == _DEFAULT_CONFIG and isinstance(error.__cause__, FileNotFoundError):
            problem = (
                f"no daemon is configured here, there is no {config}: say which one to "
                "ask, --config FILE or --socket PATH"
            )
            if kernel_too:
                problem += "; the kernel can be asked without one: --table kernel"
        raise ControlError(problem, status) from error


def _open_closed_streams() -> None:
    """Where the caller has closed a standard stream, something stands in.

    No socket gets its number, and what is written to a closed output still fails.
    """
    if sys.stdin and sys.stdout and sys.stderr:
        return
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number is this one
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 - for the life of the program
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _discard_output() -> None:
    # Python would try, and complain, once more when it flushes at the end.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failure(error: OSError) -> str:
    """What failed, and why; what has no room for a line is standard output."""
    named = error.filename
    if error.errno in _NO_ROOM and named is None:
        named = "standard output"
    reason = error.strerror or str(error)
    return reason if named is None else f"{named}: {reason}"


def _refuse(problem: str, status: int) -> int:
    print(f"syncd: {' '.join(problem.split())}", file=sys.stderr)
    return status


def _read(words: list[str]) -> argparse.Namespace:
    parser, commands = _parser(words)
    arguments, extra = parser.parse_known_args(words)
    if extra:
        commands[arguments.command].refuse(extra)
    return arguments


def _parser(words: list[str]) -> tuple[Parser, dict[str, Parser]]:
    """All commands, or only the one that comes first: each costs a client's time."""
    parser = Parser(
        prog="syncd",
        description="Keep the connection tracking tables of a cluster alike.",
        allow_abbrev=False,
    )
    _add_common(parser, config=_DEFAULT_CONFIG, plain=None, flag=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = Parser(add_help=False, allow_abbrev=False)
    # After the command the same options: what is not given leaves the value alone.
    absent = argparse.SUPPRESS
    _add_common(common, config=absent, plain=absent, flag=absent)
    texts = {
        "run": "the daemon, in the foreground",
        "check-config": "validate the configuration",
        **{name: text for name, (text, _) in _CLIENTS.items()},
        **_KEYS,
        "timeouts": _TIMEOUTS,
    }
    if words and words[0] in texts:
        texts = {words[0]: texts[words[0]]}
    added: dict[str, Parser] = {}
    for name, text in texts.items():
        added[name] = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_EXAMPLES.get(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
            allow_abbrev=False,
        )
        _add_arguments(name, added[name], common)
    return parser, added


def _add_arguments(
    name: str, parser: argparse.ArgumentParser, common: argparse.ArgumentParser
) -> None:
    """What one command takes besides the common options."""
    if name == "check-config":
        text = "this file alone; without it this node's, with its key file"
        parser.add_argument("file", nargs="?", metavar="FILE", help=text)
    elif name in ("commit", "verify"):
        parser.add_argument("--peer", metavar="NODE", help="only this one")
    elif name == "flush":
        parser.add_argument("table", choices=("own", "peer", "kernel"))
    elif name == "resync":
        parser.add_argument("what", choices=("pull", "push", "kernel"))
    elif name == "show":
        add_show(parser)
    elif name == "watch":
        add_watch(parser)
    elif name == "keygen":
        _add_keygen(parser)
    elif name == "keys":
        _add_keys(parser, common)
    elif name == "timeouts":
        add_timeouts(parser, common)


def _add_common(
    parser: argparse.ArgumentParser, config: str, plain: str | None, flag: str | bool
) -> None:
    parser.add_argument(
        *("--config", "-c"),
        metavar="FILE",
        default=config,
        help=f"configuration, default {_DEFAULT_CONFIG}",
    )
    parser.add_argument(
        "--socket", metavar="PATH", default=plain, help="the daemon's control socket"
    )
    parser.add_argument("--json", action="store_true", default=flag, help="print JSON")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=plain, help="wait no longer"
    )
    version = f"syncd {__version__} ({build.name()})"
    parser.add_argument("--version", action="version", version=version)


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    text = "default: key_file of the configuration"
    parser.add_argument("--key-file", metavar="FILE", help=text)
    parser.add_argument(
        "--overwrite", action="store_true", help="throw the keys of the file away"
    )


def _add_keys(keys: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", metavar="ACTION", required=True)
    texts = {
        "list": "the ids of the keys, and who knows them",
        "add": "make a key, or read one; frames are not sealed with it yet",
        "use": "seal frames with this key from now on",
        "drop": "forget a key that is not in use",
    }
    for name, text in texts.items():
        action = actions.add_parser(
            name, help=text, description=text, parents=[common], allow_abbrev=False
        )
        action.add_argument("--key-file", metavar="FILE")
        if name == "add":
            action.add_argument(
                "--stdin", action="store_true", help="read the key, a line of a file"
            )
            action.add_argument("--comment", metavar="TEXT", help="kept beside the key")
        if name in ("use", "drop"):
            action.add_argument("id", metavar="ID")
            action.add_argument(
                "--force", action="store_true", help="even if a peer is cut off by it"
            )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        problem = "must be more than 0 and at most 86400 seconds"
        raise argparse.ArgumentTypeError(problem)
    return seconds
