"""What a command says when its answer is no."""

from syncd.cli.verbs import report
from syncd.daemon.operations import verify_error


def test_a_verification_that_is_not_equal_says_why() -> None:
    assert verify_error([], [], compared=True) == ""
    assert verify_error(["fw3", "fw2"], ["fw4"], compared=True) == (
        "different: fw2, fw3"
    )
    assert "missing frames" in verify_error([], [], compared=False)


def test_a_peer_that_cannot_compare_is_named_with_the_reason() -> None:
    error = verify_error([], ["fw2"], compared=False)
    assert error.startswith("verify: fw2 cannot compare: protocol 1.0")
    row = {"node": "fw2", "equal": False, "error": "protocol 1.0 cannot compare"}
    lines = report("verify", {"ok": False, "peers": [row], "error": error})
    assert lines == ["fw2: not equal: protocol 1.0 cannot compare"]
