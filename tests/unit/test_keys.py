"""The key file: what is refused and why, and that a change is all or nothing."""

import base64
import fcntl
import os
from pathlib import Path

import pytest
from syncd import keys
from syncd.errors import ConfigError
from syncd.keys import Key, KeyRing

ONE, TWO = Key(bytes(range(32)), "first"), Key(bytes(range(32, 64)))
TEXT_ONE = base64.b64encode(ONE.secret).decode()


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def problem(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        keys.load(path)
    (line,) = caught.value.problems
    assert line.startswith(path)
    assert TEXT_ONE not in line
    return line


def test_keys_are_base64_or_hexadecimal_and_one_is_marked(tmp_path: Path) -> None:
    text = f"# words\n\n  {TEXT_ONE} first\n* {TWO.secret.hex()}  # words\n"
    ring = keys.load(written(tmp_path / "keys", text))
    assert ring == KeyRing((ONE, Key(TWO.secret, "words")), Key(TWO.secret, "words"))


def test_a_lone_key_needs_no_mark(tmp_path: Path) -> None:
    ring = keys.load(written(tmp_path / "keys", TEXT_ONE))
    assert ring.sending.secret == ONE.secret


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "keys", TEXT_ONE, mode)
    said = problem(path)
    assert f"(mode {mode:04o})" in said
    assert said.endswith(f"chmod 600 {path}")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    assert keys.load(written(tmp_path / "keys", TEXT_ONE, mode))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'has no key: make one with "syncd keygen"'),
        ("# nothing\n\n", "has no key"),
        ("secret", ":1: no key, must be 32 bytes as base64 or as 64 hex"),
        (f"{TEXT_ONE}\n\nABC=\n", ":3: a key of 2 bytes, must be 32"),
        ("aa" * 31, ":1: a key of 31 bytes"),
        (f"{TEXT_ONE}\n* {ONE.secret.hex()}", ":2: the same key as in line 1"),
        (f"{TEXT_ONE}\n{TWO.secret.hex()}", "0 of 2 keys are marked with *"),
        (f"* {TEXT_ONE}\n*{TWO.secret.hex()}", "2 of 2 keys are marked with *"),
        ("\n".join(f"{n:064x}" for n in range(17)), "has 17 keys, at most 16"),
        ("#" * 70_000, "larger than 64 KiB"),
        ("\xff\x00", ":1: no key"),
    ],
)
def test_what_is_no_key_file_is_refused_in_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in problem(written(tmp_path / "keys", text))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    line = problem(str(tmp_path / "none"))
    assert "syncd keygen" in line
    assert 'mode = "off"' in line


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a file" in problem(str(tmp_path / "pipe"))
    assert "is not a file" in problem(str(tmp_path))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "more" / "keys")
    keys.create(path, KeyRing((ONE, TWO), TWO))
    assert keys.load(path) == KeyRing((ONE, TWO), TWO)
    assert os.stat(path).st_mode & 0o7777 == 0o600


def test_a_file_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = written(tmp_path / "keys", "precious")
    with pytest.raises(ConfigError, match="is there already"):
        keys.create(path, KeyRing((ONE,), ONE))
    assert Path(path).read_text() == "precious"
    keys.create(path, KeyRing((ONE,), ONE), overwrite=True)
    assert keys.load(path).sending == ONE


def test_a_change_that_fails_leaves_the_file_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "keys", TEXT_ONE)

    def refuse(ring: KeyRing) -> KeyRing:
        raise ConfigError([f"{len(ring.keys)} are enough"])

    with pytest.raises(ConfigError, match="1 are enough"):
        keys.change(path, refuse)
    assert Path(path).read_text() == TEXT_ONE
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


def test_a_change_goes_through_a_link_and_keeps_the_owner(tmp_path: Path) -> None:
    real = written(tmp_path / "real", TEXT_ONE)
    if os.geteuid() == 0:
        os.chown(real, 12345, 54321)
    (tmp_path / "keys").symlink_to(real)
    before = os.stat(real)
    keys.change(str(tmp_path / "keys"), lambda ring: KeyRing((*ring.keys, TWO), TWO))
    after = os.stat(real)
    assert (tmp_path / "keys").is_symlink()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_mode & 0o7777 == 0o600
    assert keys.load(real).sending == TWO


def test_who_keeps_the_lock_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="somebody else has locked"):
            keys.create(str(tmp_path / "keys"), KeyRing((ONE,), ONE))
    finally:
        os.close(directory)


def test_new_keys_differ_and_are_found_by_the_beginning_of_their_id() -> None:
    assert keys.new_key().id != keys.new_key().id
    ring = KeyRing((ONE, TWO), ONE)
    assert ring.find(TWO.id.hex()) == ring.find(TWO.id.hex()[:3].upper()) == TWO
    for name in ("", "zz"):
        with pytest.raises(ConfigError, match="there are"):
            ring.find(name)


def test_a_key_is_not_shown_by_accident() -> None:
    assert str(ONE.secret) not in repr(KeyRing((ONE,), ONE))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_is_overwritten_still_belongs_to_the_daemons_user(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "keys", "old")
    os.chown(path, 12345, 12345)
    keys.create(path, KeyRing((ONE,), ONE), overwrite=True)
    assert os.stat(path).st_uid == 12345
