"""The status object becomes an aligned page; what is missing is a question mark."""

from syncd.cli.status import page

STATUS = {
    "node": "fw1",
    "version": "0.1.0",
    "epoch": "1",
    "uptime_s": 12.5,
    "role": "backup",
    "ready": True,
    "tables": {
        "own": {"flows": 10, "expectations": 0},
        "peer": {"flows": 100000, "expectations": 2},
    },
    "peers": [
        {
            "node": "fw2",
            "state": "in-step",
            "flows": 100000,
            "expectations": 2,
            "lag_frames": 0,
            "last_heard_s": 0.1,
            "verified": True,
        },
        {
            "node": "gate-3",
            "state": "lost",
            "flows": 0,
            "expectations": 0,
            "lag_frames": 12,
            "last_heard_s": 7300,
            "verified": False,
        },
    ],
    "links": [
        {
            "interface": "eth2",
            "hears": ["fw2"],
            "heard_by": [],
            "type": "multicast",
            "state": "active",
            "sent_bytes": 900,
            "sent_frames": 3,
            "received_bytes": 5 << 20,
            "received_frames": 4000,
            "lost_frames": 1,
            "rejected_frames": {"auth": 0, "replay": 0, "malformed": 2, "version": 1},
        }
    ],
    "kernel": {"events": 5, "overruns": 0, "resyncs": 1, "entries": 9, "limit": 262144},
    "commit": {"last": None},
    "ok": True,
}


def test_the_page_is_aligned_and_says_all() -> None:
    assert page(STATUS) == [
        "fw1: backup, ready (syncd 0.1.0, up 12.5 s)",
        "tables  own   10 flows      0 expectations",
        "        peer  100000 flows  2 expectations",
        "peers   fw2     in-step  100000 flows  2 expectations  lag 0 frames "
        "  heard 0.1 s ago      verified",
        "        gate-3  lost     0 flows       0 expectations  lag 12 frames"
        "  heard 2 h 1 min ago  not verified",
        "links   eth2  multicast  active  hears fw2  heard by nobody  sent 900 B in 3"
        "  received 5.0 MiB in 4000  lost 1"
        "  rejected 3 (2 malformed, 1 version)",
        "kernel  9 of 262144 entries  5 events  0 overruns  1 resyncs",
        "commit  none yet",
    ]


def test_a_commit_is_told_when_there_was_one() -> None:
    last = {"created": 5, "updated": 0, "unchanged": 1, "failed": 0, "seconds": 0.5}
    text = page(STATUS | {"commit": {"last": last}})[-1]
    assert text == "commit  5 created, 0 updated, 1 unchanged, 0 failed in 0.50 s"


def test_what_the_daemon_does_not_tell_is_a_question_mark() -> None:
    lines = page({"ok": True, "peers": "?", "links": [3], "kernel": None})
    assert lines[0] == "?: ?, not ready (syncd ?, up ?)"
    assert "peers   none" in lines
    assert "links   none" in lines


def test_what_a_link_waits_for_is_said() -> None:
    link = {"interface": "eth9", "type": "tcp", "state": "waiting", "reason": "no eth9"}
    assert "eth9  tcp  waiting: no eth9  hears" in "\n".join(page({"links": [link]}))


def test_frames_that_leave_in_the_open_are_said_and_sealed_ones_go_without_saying() -> (
    None
):
    def second(mode: str, *, sealing: bool) -> str:
        return page(STATUS | {"security": {"mode": mode, "sealing": sealing}})[1]

    assert second("enforce", sealing=True).startswith("tables")
    assert second("off", sealing=False) == (
        "frames  leave in the open, [security] mode off"
    )
    assert second("permissive", sealing=True) == (
        "frames  leave sealed, [security] mode permissive"
    )


def test_of_a_copy_that_is_not_verified_it_is_said_how_much_is_proven() -> None:
    peer = {"node": "fw2", "verified": False, "completeness": 0.5}
    assert page({"peers": [peer]})[3].endswith("50.0% proven")


def test_another_node_of_this_name_is_said_in_the_first_line() -> None:
    line = page(STATUS | {"ready": False, "name_conflict": "10.0.0.2"})[0]
    assert line.startswith("fw1: backup, not ready, 10.0.0.2 has the same name (syncd")


def test_what_is_set_otherwise_on_a_peer_is_named() -> None:
    difference = {"what": "nf_conntrack_max", "here": 262144, "there": None}
    settings = {"equal": False, "differences": [difference]}
    peers = [{"node": "fw2", "settings": settings}, {"node": "fw3"}]
    lines = page(STATUS | {"peers": peers})
    assert "kernels fw2  nf_conntrack_max: 262144 here, absent there" in lines
    assert not any(line.startswith("kernels") for line in page(STATUS))
