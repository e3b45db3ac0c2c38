"""The recorded frames of tests/data/frames, for every test that wants them."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from syncd.keys import KeyRing, parse

_DATA = Path(__file__).parents[2] / "data" / "frames"
_DIRECTORIES = sorted(path.name for path in _DATA.iterdir() if path.is_dir())
VERSIONS = tuple(name for name in _DIRECTORIES if name[0].isdigit())
SEALED = tuple(name for name in _DIRECTORIES if name.startswith("sealed-"))


@dataclass(frozen=True)
class RecordedFrame:
    """One datagram, and how the version that sent it understood it."""

    version: str
    session: str
    n: int
    datagram: bytes
    sender: str
    epoch: int
    number: int
    hello: dict[str, object] | None
    data: dict[str, int | list[object]] | None


@cache
def recorded_frames(version: str) -> tuple[RecordedFrame, ...]:
    """All frames of one version, session by session, in their order."""
    found = []
    for file in sorted((_DATA / version).glob("*.jsonl")):
        for line in file.read_text().splitlines():
            said = json.loads(line)
            found.append(
                RecordedFrame(
                    version,
                    file.stem,
                    said["n"],
                    bytes.fromhex(said["hex"]),
                    said["sender"],
                    said["epoch"],
                    said["number"],
                    said.get("hello"),
                    said.get("data"),
                )
            )
    assert found, f"no recorded frames of {version}"
    return tuple(found)


def recorded_keys(version: str) -> KeyRing:
    """The keys that the frames of a directory of `SEALED` are sealed with."""
    return parse((_DATA / version / "keys").read_text(), f"{version}/keys")


def digest(items: list[bytes]) -> str:
    """A short name for a list of keys and bodies."""
    return hashlib.blake2b(b"\0".join(items), digest_size=8).hexdigest()
