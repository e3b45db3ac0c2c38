"""Answers of the daemon become one summary line, with what failed below it."""

from syncd.cli.verbs import report

SETTINGS = {
    "equal": False,
    "differences": [
        {"what": "nf_conntrack_max", "here": 262144, "there": 65536},
        {"what": "helper ftp", "here": None, "there": "present"},
    ],
}


def test_a_commit_tells_its_counts() -> None:
    answer = {
        "ok": True,
        "created": 100000,
        "updated": 0,
        "unchanged": 0,
        "failed": 0,
        "seconds": 0.612,
    }
    assert report("commit", answer) == [
        "committed: 100000 created, 0 updated, 0 unchanged, 0 failed in 0.61 s"
    ]


def test_failures_are_told_by_reason() -> None:
    answer = {
        "ok": False,
        "created": 1,
        "updated": 0,
        "unchanged": 0,
        "failed": 3,
        "failed_by_reason": {"table full": 2, "no such master": 1},
    }
    assert report("commit", answer) == [
        "committed: 1 created, 0 updated, 0 unchanged, 3 failed",
        "  failed: 2 table full",
        "  failed: 1 no such master",
    ]


def test_a_step_of_the_failover_tells_the_role() -> None:
    answer = {"ok": True, "role": "primary", "created": 2, "seconds": 0.1}
    assert report("promote", answer) == ["role primary: 2 created in 0.10 s"]
    answer = {"ok": True, "role": "backup", "seconds": 0.0}
    assert report("demote", answer) == ["role backup in 0.00 s"]


def test_a_table_is_named() -> None:
    answer = {"ok": True, "table": "peer", "what": None, "flushed": 7}
    assert report("flush", answer) == ["flush peer: 7 flushed"]
    answer = {"ok": True, "what": "kernel", "table": None, "flows": 7, "swept": 1}
    assert report("resync", answer) == ["resync kernel: 7 flows, 1 swept"]
    answer = {"ok": True, "what": "pull", "flows": 7, "peers": 1, "seconds": 0.5}
    assert report("resync", answer) == ["resync pull: 7 flows in 0.50 s"]


def test_changes_that_reached_nobody_are_told() -> None:
    answer = {"ok": True, "role": "backup", "pushed": False}
    assert report("demote", answer) == [
        "role backup (not every peer has heard of the last changes)"
    ]


def test_what_has_no_counts_is_one_word() -> None:
    assert report("stop", {"ok": True}) == ["stopped"]


def test_every_peer_is_compared_on_its_own_line() -> None:
    answer = {
        "ok": False,
        "peers": [
            {"node": "fw2", "equal": True, "different": 0},
            {"node": "fw3", "equal": False, "different": 3, "repaired": 3},
            {"node": "fw4", "equal": False, "error": "no answer"},
            {"node": "fw5", "equal": False, "different": 2, "verified": True},
            {"node": "fw6", "equal": True, "settings": SETTINGS},
        ],
    }
    assert report("verify", answer) == [
        "fw2: equal",
        "fw3: not equal: 3 different, 3 repaired",
        "fw4: not equal: no answer",
        "fw5: not equal: 2 different, equal now",
        "fw6: equal",
        "  nf_conntrack_max: 262144 here, 65536 there",
        "  helper ftp: absent here, present there",
    ]
    assert report("verify", {"ok": True, "peers": []}) == ["no peers"]
