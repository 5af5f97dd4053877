"""The page of benchmarks is made from a run's output: every figure, and where a peer is ahead."""

import pytest

from benchmarks import page, table
from benchmarks.harness import Outcome
from benchmarks.measuring import Figure


def series(label, *values):
    return table.Series(label, [Outcome({"median ms": value, "n": 2000.0}) for value in values])


def a_run():
    cw, loky, pool = series("cw 1", 0.4, 0.6), series("loky 3", 1.2, 1.2), series("Pool", 0.25, 0.25)
    figures = [Figure("median ms", higher_is_better=False)]
    return "\n".join(
        [
            "2 CPUs, Python 3.11\n",
            table.heading("cw"),
            table.rows("roundtrip", figures, [(cw, None), (loky, cw), (pool, cw)]),
            "| roundtrip | ray 2 |  | failed: it hung |  |  |",
        ]
    ).splitlines()


def test_each_figure_of_a_run_is_one_row_with_the_peers_from_the_best_on():
    lines = page.render(a_run()).splitlines()
    assert lines[0] == "One run: 2 CPUs, Python 3.11."
    assert lines[4] == "| roundtrip | median ms | 0.500 | Pool 0.250 (0.500 ×); loky 3 1.20 (2.40 ×) |"
    assert lines[6:] == ["cw is behind here:", "", "- roundtrip, median ms: Pool 0.250, cw 0.500"]


def test_only_what_stands_between_the_marks_is_replaced():
    text = f"# Title\n{page.BEGIN}\nold\n{page.END}\nend\n"
    assert page.replace(text, "new") == f"# Title\n{page.BEGIN}\nnew\n{page.END}\nend\n"
    with pytest.raises(ValueError, match="no marks"):
        page.replace("# Title\n", "new")
