"""Keys and mode of a running node: from its files into the engine, and what it tells.

In: `[security]` of the configuration, the key file. Out: a `Security` for the engine,
and the answer of the command `keys`. The rule: what cannot be read changes nothing.
"""

from syncd import keys
from syncd.config import SecurityConfig
from syncd.daemon.commands import Answer
from syncd.replication.engine import ReplicationEngine
from syncd.replication.seal import OFF, PERMISSIVE, Security


def read_security(config: SecurityConfig) -> Security:
    """The mode and the keys; ConfigError when there is no usable key."""
    if config.mode == OFF:
        return Security()
    ring = keys.load(config.key_file)
    secrets = {key.id: key.secret for key in ring.keys}
    return Security(config.mode, secrets, ring.sending.id)


def warning(security: Security) -> str | None:
    """What an operator should know about a mode that does not protect."""
    if security.mode == OFF:
        return (
            "[security] mode is off: frames are neither encrypted nor "
            "authenticated; keep the links private"
        )
    if security.mode == PERMISSIVE:
        return (
            "[security] mode is permissive: frames without a seal are taken too; "
            'write "enforce" when every node has the key'
        )
    return None


def keys_answer(engine: ReplicationEngine) -> Answer:
    """Which keys are in force here, and what the live peers say of theirs."""
    security = engine.sealer.security
    return {
        "mode": security.mode,
        "sealing": engine.sealing,
        "keys": [key_id.hex() for key_id in security.ids],
        "sending": security.sending.hex(),
        "peers": [
            {
                "node": peer.name,
                "keys": [key_id.hex() for key_id in peer.keys],
                "seals_with": engine.sealer.key_of(peer.name, peer.inbox.epoch).hex(),
            }
            for peer in engine.peers.values()
            if peer.live
        ],
        "ok": True,
    }
