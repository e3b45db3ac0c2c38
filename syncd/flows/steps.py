"""What to ask the kernel next about a flow that it refused.

In: what was asked, and the errno. Out: what to ask instead, without which attribute.
The rule: each way is a row of a table; what has no row is a failure with that reason.
"""

import errno
from enum import Enum, auto

from syncd.flows.record import (
    CTA_HELP,
    CTA_LABELS,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
)


class Verb(Enum):
    """What is asked about one record."""

    CREATE = auto()
    REFRESH = auto()  # only the timer
    UPDATE = auto()
    LOOK_UP = auto()
    REPLACE = auto()  # delete what has its original tuple, then create
    DISPLACE = auto()  # delete what has its reply tuple, then create


CREATING = (Verb.CREATE, Verb.REPLACE, Verb.DISPLACE)
_UPDATING = (Verb.REFRESH, Verb.UPDATE)

# What was asked and refused why -> what to ask next, without which attribute.
STEPS: dict[tuple[Verb, int], tuple[Verb, int]] = {
    **{(verb, errno.EEXIST): (Verb.LOOK_UP, 0) for verb in CREATING},
    **{(verb, errno.ENOENT): (Verb.CREATE, CTA_TUPLE_MASTER) for verb in CREATING},
    **{(verb, errno.EOPNOTSUPP): (Verb.CREATE, CTA_HELP) for verb in CREATING},
    **{(verb, errno.ENOENT): (Verb.CREATE, 0) for verb in _UPDATING},
    **{(verb, errno.EPERM): (verb, CTA_TIMEOUT) for verb in _UPDATING},
    (Verb.UPDATE, errno.ENOSPC): (Verb.UPDATE, CTA_LABELS),
    # Another helper than was thought.
    **{(verb, errno.EOPNOTSUPP): (Verb.LOOK_UP, 0) for verb in _UPDATING},
    **{(verb, errno.EBUSY): (Verb.LOOK_UP, 0) for verb in _UPDATING},
    (Verb.LOOK_UP, errno.ENOENT): (Verb.DISPLACE, 0),
    **{(verb, errno.ENOBUFS): (verb, 0) for verb in Verb},  # an answer was lost
}
