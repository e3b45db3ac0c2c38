"""Which bits of marks and labels a commit restores.

In: bodies, as they were told or as the kernel holds them. Out: the same with these bits
only, and the attributes that go with an update. The rule: a bit outside of a mask is
this node's own; a commit neither sets nor clears it, nor compares it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from syncd.config import ALL_LABELS, ALL_MARKS, CommitConfig
from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.batch import TimedRecord
from syncd.flows.record import (
    CTA_LABELS,
    CTA_LABELS_MASK,
    CTA_MARK,
    CTA_MARK_MASK,
    EXPECTATION,
)

_LABEL_BYTES = 16


@dataclass(frozen=True)
class Masks:
    """Bit N of `label_mask` is label N; 0 leaves all labels alone."""

    mark_mask: int = ALL_MARKS
    label_mask: int = ALL_LABELS

    @classmethod
    def of(cls, config: CommitConfig) -> Self:
        """What a configuration says."""
        return cls(config.mark_mask, config.label_mask if config.labels else 0)

    @property
    def whole(self) -> bool:
        """Is every bit restored?"""
        return self.mark_mask == ALL_MARKS and self.label_mask == ALL_LABELS

    @cached_property
    def attributes(self) -> bytes:
        """What tells the kernel, in an update, to leave the other bits as they are."""
        told = b""
        if self.mark_mask != ALL_MARKS:
            told += nla.tlv(CTA_MARK_MASK, self.mark_mask.to_bytes(4, "big"))
        if self.label_mask != ALL_LABELS:
            bits = self.label_mask.to_bytes(_LABEL_BYTES, "little")
            told += nla.tlv(CTA_LABELS_MASK, bits)
        return told

    def restored(self, records: Iterable[TimedRecord]) -> Iterator[TimedRecord]:
        """The records with these bits only."""
        for key, body, elapsed_s in records:
            yield key, self.body(key, body), elapsed_s

    def body(self, key: bytes, body: bytes) -> bytes:
        """A body with these bits only; what is malformed stays as it is."""
        if self.whole or key[6:7] == bytes((EXPECTATION,)):
            return body
        try:
            attributes = nla.attributes(body)
        except RecordError:
            return body
        if CTA_MARK in attributes:
            mark = int.from_bytes(attributes[CTA_MARK][4:], "big") & self.mark_mask
            attributes[CTA_MARK] = (
                nla.tlv(CTA_MARK, mark.to_bytes(4, "big")) if mark else b""
            )
        if CTA_LABELS in attributes:
            value = attributes[CTA_LABELS][4:]
            labels = int.from_bytes(value, "little") & self.label_mask
            attributes[CTA_LABELS] = (
                nla.tlv(CTA_LABELS, labels.to_bytes(len(value), "little"))
                if labels
                else b""
            )
        return b"".join(attributes.values())


WHOLE = Masks()
