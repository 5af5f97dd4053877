"""`python -m benchmarks > run.md; python -m benchmarks.page run.md docs/benchmarks.md`: a run as the page's table.

One row for each figure: cw, then the others from the best to the worst, each with the factor by which cw is better.
What stands between the two marks of the page is replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring import Figure

BEGIN, END = "<!-- one run: begin -->", "<!-- one run: end -->"


class Row(NamedTuple):
    """One line of a run's table. `factor`: by how much cw is better ('7.01'); '' where that is not known."""

    workload: str
    system: str
    figure: str
    median: str
    factor: str

    @property
    def value(self) -> float:
        return float(self.median.replace(",", ""))

    @property
    def is_own(self) -> bool:
        return re.search(r"\bcw\b", self.system) is not None


def read(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the figures of a run's table; what failed has none."""
    for line in lines:
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if len(cells) == 6 and re.match(r"-?\d", cells[4]):
            workload, system, _, figure, spread, factor = cells
            yield Row(workload, system, figure, spread.partition(" ")[0], factor.removesuffix(" ×"))


def render(lines: list[str]) -> str:
    """Return a run's table for the page, and the rows in which cw is behind."""
    by_figure: dict[tuple[str, str], list[Row]] = {}
    for row in read(lines):
        by_figure.setdefault((row.workload, row.figure), []).append(row)
    table, behind = ["| work | figure | cw | others (cw is better by) |", "| --- | --- | --- | --- |"], []
    for (workload, name), rows in by_figure.items():
        best_first = sorted(rows, key=lambda row: row.value, reverse=_figure(workload, name).higher_is_better)
        own = [row for row in best_first if row.is_own]
        others = [row for row in best_first if not row.is_own]
        ours = "; ".join(row.median if len(own) == 1 else f"{row.system} {row.median}" for row in own)
        theirs = "; ".join(
            f"{row.system} {row.median}" + f" ({row.factor} ×)" * bool(row.factor) for row in others
        )
        table.append(f"| {workload} | {name} | {ours} | {theirs} |")
        ahead = best_first[: best_first.index(own[0])] if own else []
        if ahead:
            best = ", ".join(f"{row.system} {row.median}" for row in ahead)
            behind.append(f"- {workload}, {name}: {best}, cw {own[0].median}")
    return "\n".join([f"One run: {lines[0].strip()}.", "", *table, "", "cw is behind here:", "", *behind])


def _figure(workload: str, name: str) -> Figure:
    return next(figure for figure in import_module(f"benchmarks.{workload}").FIGURES if figure.name == name)


def replace(page: str, text: str) -> str:
    """Return the page with `text` between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("run", type=Path, help="what `python -m benchmarks` has printed on stdout")
    parser.add_argument("page", type=Path, help="the page to write it to")
    arguments = parser.parse_args()
    text = render(arguments.run.read_text().splitlines())
    arguments.page.write_text(replace(arguments.page.read_text(), text))


if __name__ == "__main__":
    main()
