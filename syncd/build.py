"""Which build this is: nothing comes in, one word for people goes out.

The rule: it is seen at the module that every event passes, as Python would load it, and
not remembered from the installation.
"""

import os  # noqa: TID251 - this is no pure room
from typing import Final

_WITNESS: Final = "record."  # of syncd/flows


def name() -> str:
    """`compiled` or `pure Python`."""
    folder = os.path.join(os.path.dirname(__file__), "flows")
    compiled = any(
        file.startswith(_WITNESS) and file.endswith(".so")
        for file in os.listdir(folder)
    )
    return "compiled" if compiled else "pure Python"
