"""Which sources metrics tell apart. Each has several series, so their number is bounded: the oldest are shown by their
names, and the others together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MOST_NAMED: Final = 50
LONGEST_NAME: Final = 60
OTHERS: Final = "other"


@dataclass(frozen=True)
class SourceLabels:
    named: Mapping[str, str]

    def of(self, source_id: str) -> str:
        return self.named.get(source_id, OTHERS)


def source_labels(sources: Iterable[tuple[str, str]]) -> SourceLabels:
    """The labels of these sources (id, name). Ids grow with time, so that a new source takes no other's label; those
    of one name share a series."""
    oldest = sorted(sources)[:MOST_NAMED]
    return SourceLabels({source_id: name[:LONGEST_NAME] or OTHERS for source_id, name in oldest})
