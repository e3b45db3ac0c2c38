"""Every copy of a HELLO fits the link that it leaves by."""

import random
from dataclasses import replace

import pytest
from syncd.flows.own import Own
from syncd.replication.settings import Settings
from syncd.replication.speaker import Speaker


def crowd(seed: int) -> Speaker:
    """A node that has much to say, about many peers."""
    rng = random.Random(seed)
    speaker = Speaker("fw1", rng.getrandbits(60), Settings(), Own(), 1.0)
    for place, frame_bytes in enumerate((1400, 1280, 600)):
        speaker.paths.link_changed(place, usable=True, frame_bytes=frame_bytes, now=1.0)
    for number in range(rng.randint(3, 16)):
        name = f"fw{number + 2}"
        peer = speaker.membership.admit(name, 1.0)
        assert peer is not None
        peer.inbox.open(rng.getrandbits(48), rng.randint(20, 99))
        at = rng.randint(1, 40)
        for _ in range(rng.randint(0, 12)):
            last = at + rng.randint(0, 5)
            peer.inbox.lost.append((at, last))
            at = last + 2
        speaker.outbox.join(name)
        for place in range(3):
            life = (name, peer.inbox.epoch, peer.inbox.highest, place)
            speaker.paths.told(*life, (place, 600, 0.5), (0, 1, 2), 1.0)
    return speaker


@pytest.mark.parametrize("seed", range(60))
def test_a_hello_fits_with_the_name_of_every_link_in_it(
    seed: int,
) -> None:
    """Simulation seed 103060: measured with another name it was smaller."""
    speaker = crowd(seed)
    ((_, whole),) = speaker.hellos(reply=True, now=1.0, room=9000)
    least = len(speaker.coder.pack_hello(whole))
    for room in range(max(least - 12, 300), least + 4):  # it just fits, or just not
        for _, hello in speaker.hellos(reply=True, now=1.0, room=room):
            for place in range(3):
                copy = replace(hello, way=speaker.paths.way(place))
                assert len(speaker.coder.pack_hello(copy)) <= room
