"""What a command says when its answer is no."""

from syncd.cli.verbs import report
from syncd.daemon.verification import kernel_error, peers_error


def test_a_verification_that_is_not_equal_says_why() -> None:
    assert peers_error([], [], [], compared=True) == ""
    assert peers_error(["fw3", "fw2"], ["fw4"], [], compared=True) == (
        "different: fw2, fw3"
    )
    assert "missing frames" in peers_error([], [], [], compared=False)
    assert "fw2 was lost" in peers_error([], [], ["fw2"], compared=False)


def test_the_kernels_part_of_a_verification_says_what_is_not_equal() -> None:
    found: dict[str, object] = {
        "compared": 9,
        "different": 0,
        "repaired": 0,
        "refused": 0,
        "untold": 0,
        "complete": True,
    }
    assert kernel_error(found) == ""
    peers = [{"node": "fw1", "equal": True}]
    lines = report("verify", {"ok": True, "peers": peers, "kernel": found})
    assert lines == ["fw1: equal", "this kernel: equal, 9 compared"]
    for wrong, error, line in (
        (
            {"different": 3, "repaired": 2},
            "3 copies were different, 2 repaired",
            "not equal, 9 compared, 3 different, 2 repaired",
        ),
        (
            {"refused": 4},
            "4 copies are refused by it",
            "not equal, 9 compared, 4 refused",
        ),
        (
            {"complete": False},
            "its copies could not be compared in time",
            "not compared in time, 9 compared",
        ),
    ):
        told = found | wrong
        assert kernel_error(told) == f"this kernel: {error}"
        lines = report("verify", {"ok": False, "peers": peers, "kernel": told})
        assert lines[-1] == f"this kernel: {line}"


def test_a_peer_that_cannot_compare_is_named_with_the_reason() -> None:
    error = peers_error([], ["fw2"], [], compared=False)
    assert error.startswith("verify: fw2 cannot compare: protocol 1.0")
    row = {"node": "fw2", "equal": False, "error": "protocol 1.0 cannot compare"}
    lines = report("verify", {"ok": False, "peers": [row], "error": error})
    assert lines == ["fw2: not equal: protocol 1.0 cannot compare"]
