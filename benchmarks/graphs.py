"""A graph of 100,000 no-op calls, in chains and fan-ins, beside as many calls that depend on nothing.

Each part of the graph is ten chains of nine calls, and one call of all their ends: 91 calls; 1,100 parts. Each call has
the future of the one before as its argument. The rates, of the graph and of single no-op calls, are of one run, in
turns; "of plain" is their ratio.
"""

import statistics

from benchmarks.functions import add_up, noop
from benchmarks.measuring import Figure, affordable, check_sum, rate, timed, warm_up

SYSTEMS = ("cw", "parsl", "dask")
FIGURES = (Figure("calls/s"), Figure("plain calls/s"), Figure("of plain"))
LIMIT = 600
CHAINS, LINKS = 10, 9
TURNS = 3


def measure(system_class, quick):
    with system_class(2) as system:
        warm_up(system, 2)
        size = CHAINS * LINKS + 1
        parts = max(1, affordable(system, 10_000 if quick else 100_000, quick) // size)
        graphs, plain = [], []
        for _ in range(TURNS):
            plain.append(rate(system, parts * size))
            seconds, results = timed(lambda: run(system, parts))
            check_sum([result // CHAINS for result in results], parts)
            graphs.append(parts * size / seconds)
    ratios = [graph / single for graph, single in zip(graphs, plain, strict=True)]
    return {
        "n": parts * size,
        "calls/s": statistics.median(graphs),
        "plain calls/s": statistics.median(plain),
        "of plain": statistics.median(ratios),
    }


def run(system, parts):
    """Return the result of each part of the graph: its number, once for each chain."""
    ends = []
    for part in range(parts):
        chains = [part] * CHAINS
        for _ in range(LINKS):
            chains = [system.submit(noop, link) for link in chains]
        ends.append(system.submit(add_up, *chains))
    return system.gather(ends)
