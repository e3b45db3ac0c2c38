"""The process: configuration, logging, signals, systemd's notice.

In: the path of a configuration. Out: the exit status of `syncd run`. The rule: SIGTERM
and SIGINT stop cleanly, SIGHUP reads the configuration anew; whatever goes wrong is one
line on standard error.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from dataclasses import replace

from syncd.config import Config, load
from syncd.daemon.node import Node
from syncd.daemon.secrecy import warning
from syncd.errors import ConfigError, ControlError, KernelError, SyncdError

_LOG = logging.getLogger("syncd")
_DENIED = (1, 13)  # EPERM, EACCES


def run(path: str) -> int:
    """Run the daemon in the foreground until it is stopped; its exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="syncd: %(levelname)s: %(message)s",
    )
    _spare_collector()
    try:
        config = replace(load(path), path=os.path.abspath(path))
        asyncio.run(_serve(path, config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 4 if isinstance(error.__cause__, PermissionError) else 2
    except ControlError as error:
        _LOG.error(str(error))
        return error.status
    except KernelError as error:
        _LOG.error(str(error))
        return 4 if error.errno in _DENIED else 1
    except SyncdError as error:
        _LOG.error(str(error))
        return 1
    return 0


def _spare_collector() -> None:
    """Collect cyclic garbage seldom: tables are large and hold none.

    By default the collector looks at some 700 new objects at a time and, again and
    again, at everything that is old.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def _serve(path: str, config: Config) -> None:
    node = Node(config)
    if config.links and (text := warning(node.engine.sealer.security)):
        _LOG.warning(text)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, node, path)
    watchdog = asyncio.create_task(_watchdog())
    try:
        await node.run(lambda: _notify("READY=1"))
    finally:
        _notify("STOPPING=1")
        watchdog.cancel()


def _reload(node: Node, path: str) -> None:
    """SIGHUP: a broken configuration changes nothing, but files are opened anew."""
    if node.accounting is not None:
        node.accounting.reopen()
    try:
        node.reload(load(path))
    except ConfigError as error:
        for problem in error.problems:
            _LOG.error("not reloaded: %s", problem)


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); without systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, 2) as notice:
        notice.sendto(state.encode(), address)


async def _watchdog() -> None:
    """Tell systemd twice in each watchdog interval that the loop is alive."""
    interval_us = os.environ.get("WATCHDOG_USEC", "")
    while interval_us.isdigit() and int(interval_us) > 0:
        _notify("WATCHDOG=1")
        await asyncio.sleep(int(interval_us) / 2_000_000)
