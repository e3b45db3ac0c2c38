"""The key file: the text of `/etc/syncd/keys` in, a `KeyRing` out, and back.

    # comment
    * 0mJ5...=  made on fw1        the key that frames are sealed with
      9f86d0...                    another one that they are opened with

One key per line, 32 bytes as base64 or as 64 hexadecimal digits; what follows a blank
is a comment. With several keys one is marked with `*`. The rule: a file that anybody
but its owner may read, or that leaves a doubt, is refused in one line; a file is
replaced as a whole or not at all; no key is ever shown, only its id.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from syncd.errors import ConfigError

KEY_BYTES: Final = 32
KEYS_LIMIT: Final = 16
_FILE_LIMIT: Final = 64 * 1024
_PRIVATE: Final = 0o600
_LOCK_TRIES: Final = 40
_LOCK_PAUSE_S: Final = 0.05
_HEADER: Final = (
    "# Keys of a syncd cluster: who reads this file can read and forge its frames.\n"
    '# `*` marks the key that frames are sealed with; see "syncd keys --help".\n'
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key; `id` is what may be shown of it."""

    secret: bytes = field(repr=False)
    comment: str = ""

    @property
    def id(self) -> bytes:
        return hashlib.sha256(b"syncd key id" + self.secret).digest()[:4]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of a file; `sending` is one of them."""

    keys: tuple[Key, ...]
    sending: Key

    def find(self, name: str) -> Key:
        """The key with this id, or with an id that begins so."""
        found = [key for key in self.keys if key.id.hex().startswith(name.lower())]
        if len(found) != 1 or not name:
            known = ", ".join(key.id.hex() for key in self.keys)
            word = "several keys begin with" if found else "no key is called"
            raise ConfigError([f'{word} "{name}"; there are {known}'])
        return found[0]


def load(path: str) -> KeyRing:
    """Read and check the file."""
    try:
        with _opened(path) as descriptor:
            data = os.read(descriptor, _FILE_LIMIT + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            [
                f"{path}: no key file: copy it from another node, or on the first one "
                'make it with "syncd keygen" (or write [security] mode = "off")'
            ]
        ) from error
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        if isinstance(error, PermissionError):
            problem += f", it must belong to the daemon's user (here {os.geteuid()})"
        raise ConfigError([f"{path}: {problem}"]) from error
    if len(data) > _FILE_LIMIT:
        raise ConfigError([f"{path}: is larger than 64 KiB, not a key file"])
    return parse(data.decode(errors="replace"), path)


def parse(text: str, path: str) -> KeyRing:
    """Check the text of a key file; `path` is the name that problems begin with."""
    keys: list[Key] = []
    lines: dict[bytes, int] = {}
    marked: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        key = read_key(words, f"{path}:{number}")
        if key.id in lines:
            problem = f"the same key as in line {lines[key.id]}, remove one of them"
            raise ConfigError([f"{path}:{number}: {problem}"])
        lines[key.id] = number
        keys.append(key)
        if words.startswith("*"):
            marked.append(key)
    if not keys:
        raise ConfigError([f'{path}: has no key: make one with "syncd keygen"'])
    if len(keys) > KEYS_LIMIT:
        problem = f"has {len(keys)} keys, at most {KEYS_LIMIT} are allowed"
        raise ConfigError([f"{path}: {problem}"])
    if len(keys) > 1 and len(marked) != 1:
        problem = f"{len(marked)} of {len(keys)} keys are marked with *, must be one"
        raise ConfigError([f"{path}: {problem}: the one to seal frames with"])
    return KeyRing(tuple(keys), marked[0] if marked else keys[0])


def read_key(line: str, place: str) -> Key:
    """One line of a key file: a mark, the key, a comment."""
    text, _, comment = line.removeprefix("*").strip().partition(" ")
    secret = _decoded(text)
    if secret is None or len(secret) != KEY_BYTES:
        found = "no key" if secret is None else f"a key of {len(secret)} bytes"
        rule = f"must be {KEY_BYTES} bytes as base64 or as 64 hexadecimal digits"
        raise ConfigError([f"{place}: {found}, {rule}"])
    return Key(secret, comment.strip().removeprefix("#").strip())


def new_key(comment: str = "") -> Key:
    """A key from the kernel's random numbers."""
    return Key(os.urandom(KEY_BYTES), comment)


def create(path: str, ring: KeyRing, *, overwrite: bool = False) -> None:
    """Write a new file of mode 0600; the owner of one that was there stays."""
    with _directory(path) as directory:
        if not overwrite and os.path.lexists(path):
            raise ConfigError(
                [
                    f'{path}: is there already: "syncd keys add" adds a key to it, '
                    "--overwrite throws its keys away"
                ]
            )
        before = os.stat(path) if os.path.exists(path) else None
        _replace(path, directory, _text(ring), before)


def change(path: str, edit: Callable[[KeyRing], KeyRing]) -> KeyRing:
    """Replace the file by what `edit` makes of it; the owner stays."""
    with _directory(path) as directory:
        edited = edit(load(path))
        _replace(path, directory, _text(edited), os.stat(path))
    return edited


def _decoded(text: str) -> bytes | None:
    try:
        if not text.strip("0123456789abcdefABCDEF"):
            return bytes.fromhex(text)
        return base64.b64decode(text, validate=True) or None
    except ValueError:
        return None


def _text(ring: KeyRing) -> str:
    lines = []
    for key in ring.keys:
        mark = "*" if key == ring.sending else " "
        comment = f"  {key.comment}" if key.comment else ""
        lines.append(f"{mark} {base64.b64encode(key.secret).decode()}{comment}\n")
    return _HEADER + "".join(lines)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """The file, open for reading, if it is private; nothing waits for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError([f"{path}: is not a file"])
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            problem = f"others than its owner may use it (mode {mode:04o})"
            remedy = f"if it is the key file, chmod 600 {path}"
            raise ConfigError([f"{path}: {problem}: {remedy}"])
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """The directory of the file, made if need be; one writer at a time."""
    place = os.path.dirname(path) or "."
    try:
        os.makedirs(place, mode=0o755, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from error


def _lock(descriptor: int) -> None:
    """One writer at a time; somebody who keeps the lock is not waited for."""
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_PAUSE_S)
    raise BlockingIOError(errno.EAGAIN, "somebody else has locked its directory")


def _replace(
    path: str, directory: int, text: str, before: os.stat_result | None
) -> None:
    """All of the text or the old file, even when the power fails."""
    path = os.path.realpath(path)
    fresh = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    try:
        with open(os.open(fresh, flags, _PRIVATE), "w") as file:
            os.fchmod(file.fileno(), _PRIVATE)
            if before is not None and before.st_uid != os.geteuid():
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    os.fsync(directory)
