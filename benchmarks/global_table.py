"""A function of the script that reads a global table of 1,000,000 entries, 100,000 submits.

The function and its table are made in `__main__`, as in a user's script. The pool's processes are forked when the table
exists; a cluster gets it in messages.
"""

import sys

from benchmarks.measuring import Figure, affordable, rate, warm_up

SYSTEMS = ("cw", "processpool", "loky")
FIGURES = (Figure("jobs/s"),)
LIMIT = 240
ENTRIES = 1_000_000
SCRIPT = f"TABLE = {{n: n for n in range({ENTRIES})}}\ndef look_up(n): return TABLE[n]\n"


def measure(system_class, quick):
    script = vars(sys.modules["__main__"])
    exec(SCRIPT, script)
    look_up = script["look_up"]
    with system_class(2) as system:
        warm_up(system, 2)
        system.submit(look_up, 1).result()
        njobs = affordable(system, 100_000, quick, look_up)
        return {"n": njobs, "jobs/s": rate(system, njobs, look_up)}
