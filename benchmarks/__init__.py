"""cw and its peers, on the same work, in one run.

    python -m benchmarks                        all installed systems; a Markdown table on stdout
    python -m benchmarks --only noop closure    some of the workloads (--list names them all)
    python -m benchmarks --systems cw dask      some of the systems
    python -m benchmarks --quick                about a minute each, to see that it runs; not for quoting
    python -m benchmarks --against DIR          this checkout of cw beside another one

Structure; imports point down:

    __main__.py     arguments; workload by workload, round by round, system by system
    table.py        medians, ratios, Markdown
    page.py         a run as the table of docs/benchmarks.md, and where cw is behind
    harness.py      one trial: a fresh process with a time limit, and the end of all processes that it started
       |  `python -m benchmarks.trial WORKLOAD SYSTEM`, which answers with a JSON file
    trial.py        the program of that process
    noop.py ...     the workloads, one subject each: SYSTEMS, FIGURES, LIMIT, measure(name, quick)
    systems.py      one adapter per system: submit, run, map, close
    measuring.py    code that workloads share: figures, warm-up, rates, slots held busy
    resumed.py      the second run of stored jobs, in a process of its own
    crowd.py        1,000 workers in one process, for `thousand_workers`
    joiners.py      thousands of workers of other machines in a few processes, for `joining`
    namespaces.py   machines on this one, for `machines` and `joining`
    far_worker.py   a worker that talks to the master as from another machine, for `encrypted`
    processes.py    values from /proc: descendants, memory, CPU time
    functions.py    the jobs' functions, the same for all systems

Figures are comparable because: the systems take turns within a round, so that a slow minute of the machine affects all
alike, and ratios are formed within a round (the table has their median); the clock starts when every slot has answered
once (except in `startup`); a system too slow for the full number of jobs gets as many as take it some seconds, by the
same rule for all, and the table gives their number (n); every result is checked. A peer that fails or hangs is a line
of the table; one that is not installed is skipped, with a message: `pip install -e '.[bench]'` installs them. A whole
run of three rounds takes more than an hour; for figures worth quoting, leave the machine alone meanwhile.

`--against` runs only cw's own rows, from this checkout and the other one in turn, and ends with status 1 if a figure is
worse here by more than 10 %. Times differ by more than that on a busy machine: repeat the rows that it names, with a
larger --repeat.
"""
