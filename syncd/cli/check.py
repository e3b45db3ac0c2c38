"""`syncd check-config`: silent when all is well, else every problem on a line.

Without FILE the configuration of this node is meant, and its key file is looked at too;
a FILE may be for another node.
"""

import argparse
import json
import sys

from syncd import keys
from syncd.config import load
from syncd.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0, 2 for problems, 4 for a file that may not be read."""
    problems: list[str] = []
    status = 0
    try:
        config = load(arguments.file or arguments.config)
        if arguments.file is None and config.links and config.security.mode != "off":
            keys.load(config.security.key_file)
    except ConfigError as error:
        problems = error.problems
        status = 4 if isinstance(error.__cause__, PermissionError) else 2
    if arguments.json:
        print(json.dumps({"ok": not problems, "problems": problems}, indent=2))
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
    return status
