"""Which segments are merged. Pure: no file, no clock.

    the segments of a store, in order --> by the scheme of their keys --> runs of settled ones --> groups

Of results with one key the latest segment's counts. So a group has no other segment between its own, unless with keys
of another scheme, and what is made of it stands where its first one stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MOST_BYTES = 1024**3
"""Size of a segment above which no other is merged with it. Larger: to tidy a store takes more room on the disk, and
writes again what it wrote before. Smaller: more segments are left."""

WORTH_WRITING = 0.1
"""Part of a segment's results that must be superseded to write it again without them, if it is larger than MOST_BYTES.
Larger: more stay that nobody sees. Smaller: more is written for little."""


class Candidate(NamedTuple):
    """A segment of a store, as far as the plan needs it."""

    name: str
    size: int
    scheme: str | None  # None: unknown
    is_settled: bool  # nothing will be appended to it, and it is whole
    results: int = 0
    superseded: int = 0  # those of its results that others have superseded


def groups(segments: Sequence[Candidate]) -> list[list[str]]:
    """Return the names of the segments of which one is to be made, group by group."""
    return [
        [each.name for each in group] for run in _runs(segments) for group in _cut(run) if _is_worth(group)
    ]


def _runs(segments: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Yield settled segments with keys of one scheme that have no other of that scheme between them."""
    open_runs: dict[str, list[Candidate]] = {}
    for each in segments:
        if each.scheme is not None and each.is_settled:
            open_runs.setdefault(each.scheme, []).append(each)
            continue
        ended = list(open_runs) if each.scheme is None else [each.scheme]
        for scheme in ended:
            yield open_runs.pop(scheme, [])
    yield from open_runs.values()


def _cut(run: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """Cut a run into groups of little more than MOST_BYTES. A larger segment is a group of its own."""
    group: list[Candidate] = []
    for each in run:
        if group and (each.size > MOST_BYTES or sum(other.size for other in group) > MOST_BYTES):
            yield group
            group = []
        group.append(each)
        if each.size > MOST_BYTES:
            yield group
            group = []
    if group:
        yield group


def _is_worth(group: list[Candidate]) -> bool:
    superseded, results = sum(each.superseded for each in group), sum(each.results for each in group)
    if len(group) > 1:
        return True
    return superseded > 0 and (group[0].size <= MOST_BYTES or superseded >= WORTH_WRITING * results)
