"""Markdown table of trials: medians, and ratios formed within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import Outcome
from benchmarks.measuring import Figure


@dataclass
class Series:
    """Outcomes of one entry (a system with its version) in a workload, one per round."""

    label: str
    outcomes: list[Outcome] = field(default_factory=list)

    def values(self, figure: Figure) -> list[float | None]:
        return [outcome.figures.get(figure.name) for outcome in self.outcomes]

    def failures(self) -> list[str]:
        return [outcome.failure for outcome in self.outcomes if outcome.failure]


def advantage(baseline: Series, other: Series, figure: Figure) -> float | None:
    """Return the factor by which the baseline is better: the median over the rounds that both have finished."""
    pairs = zip(baseline.values(figure), other.values(figure), strict=True)
    ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
    if not ratios:
        return None
    ratio = statistics.median(ratios)
    return ratio if figure.higher_is_better else 1 / ratio


def regressions(this: Series, other: Series, figures: Iterable[Figure], tolerated: float) -> list[str]:
    """Return the figures in which `this` is worse than the other by more than the tolerated factor."""
    found = [
        figure.name for figure in figures if (advantage(this, other, figure) or tolerated) < 1 / tolerated
    ]
    return found + ["failures"] * (len(this.failures()) > len(other.failures()))


def heading(reference: str) -> str:
    columns = ["workload", "system", "n", "figure", "median (min to max)", f"{reference} is better by"]
    return "\n".join([_line(columns), _line(["---", "---", "--:", "---", "--:", "--:"])])


def rows(workload: str, figures: Sequence[Figure], entries: Iterable[tuple[Series, Series | None]]) -> str:
    """Return lines of the table: for each series all its figures, and its failures.

    With each series comes the one to compare it with, or None.
    """
    lines = []
    for series, baseline in entries:
        for figure in figures:
            values = [value for value in series.values(figure) if value is not None]
            if values:
                njobs = statistics.median(o.figures["n"] for o in series.outcomes if not o.failure)
                ratio = advantage(baseline, series, figure) if baseline else None
                better = "" if ratio is None else f"{number(ratio)} ×"
                columns = [workload, series.label, f"{njobs:,.0f}", figure.name, spread(values), better]
                lines.append(_line(columns))
        if failures := series.failures():
            times = f" ({len(failures)} of {len(series.outcomes)})" if len(failures) > 1 else ""
            text = f"failed{times}: {failures[0]}".replace("|", "/")
            lines.append(_line([workload, series.label, "", text, "", ""]))
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    median = number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """Format with three significant digits, thousands with a comma."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def _line(columns: Sequence[str]) -> str:
    return "| " + " | ".join(columns) + " |"
