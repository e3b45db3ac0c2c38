"""`syncd show`: records come in raw, one line for each goes out at once.

The daemon sends bytes, this side decodes, filters and prints them, so that a long list
costs the daemon little; nothing is kept here. The text is that of `conntrack -L`.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Final

from syncd import __version__
from syncd.cli import client
from syncd.errors import ControlError, RecordError
from syncd.flows import view

_OUTPUTS: Final = ("text", "extended", "json", "id")
_LATER: Final = ("xml", "save", "timestamp", "ktimestamp", "labels")
_NAMES: Final = {"flows": "flow entries", "expectations": "expectations"}


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, give the exit status."""
    outputs = _outputs(arguments.output)
    table = arguments.table or ("own" if arguments.peer is None else "peer")
    if arguments.peer is not None and table != "peer":
        problem = f"--peer {arguments.peer} goes with --table peer, not with {table}"
        raise ControlError(problem, status=2)
    if arguments.json:
        outputs.add("json")
    given = {name: getattr(arguments, name.replace("-", "_")) for name in view.FILTERS}
    filters = view.read_filters(given)
    options = {
        "what": arguments.what,
        "table": table,
        "peer": arguments.peer,
        "timeout": arguments.timeout,
        "raw": True,
    }
    shown = malformed = 0
    answer: Mapping[str, object] = {}
    for answer in client.ask(arguments.socket, "show", options):
        if "ok" in answer:
            break
        try:
            description = read_row(answer)
        except RecordError:
            malformed += 1
            continue
        if filters is None or view.matches(description, filters):
            sys.stdout.write(_printed(description, outputs) + "\n")
            shown += 1
    sys.stdout.flush()
    if answer.get("error"):
        print(f"syncd: {answer['error']}", file=sys.stderr)
    if answer.get("ok") is True or shown:
        name = _NAMES[arguments.what]
        print(f"syncd v{__version__}: {shown} {name} have been shown.", file=sys.stderr)
    if malformed:
        print(f"syncd: {malformed} records were not understood", file=sys.stderr)
    return client.outcome(answer) or int(malformed > 0)


def read_row(row: Mapping[str, object]) -> view.Description:
    """The description of one row of `show`, raw or already decoded."""
    if "kind" in row:
        return dict(row)
    try:
        if "message" in row:
            return view.describe_message(bytes.fromhex(str(row["message"])))
        key, body = str(row["key"]), str(row["body"])
        description = view.describe(bytes.fromhex(key), bytes.fromhex(body))
    except (KeyError, ValueError) as error:
        raise RecordError("a row that is not a record") from error
    if "peer" in row:
        description["peer"] = row["peer"]
    return description


def _printed(description: view.Description, outputs: set[str]) -> str:
    if "json" in outputs:
        return json.dumps(description, separators=(",", ":"))
    return view.line(
        description,
        "extended" in outputs,
        ident="id" in outputs,
        now_s=int(time.time()),
    )


def _outputs(text: str) -> set[str]:
    """The words of --output, as conntrack's -o takes them: separated by commas."""
    outputs = set(text.split(","))
    for word in sorted(outputs):
        if word in _LATER:
            problem = f"--output {word} is not in this version yet"
            raise ControlError(f"{problem}, use text, extended or json", status=2)
        if word not in _OUTPUTS:
            allowed = ", ".join(_OUTPUTS)
            raise ControlError(f"--output {word!a} is not one of {allowed}", status=2)
    return outputs
