"""One workload on one system, once: `python -m benchmarks.trial WORKLOAD SYSTEM ANSWER [--quick] [--cw DIR]`.

Writes the figures to the file ANSWER, atomically, and ends; if that takes long, the harness ends it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.systems import SYSTEMS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trial")
    parser.add_argument("workload")
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cw", type=Path, metavar="DIR", help="the checkout that cw must come from")
    arguments = parser.parse_args()
    workload = import_module(f"benchmarks.{arguments.workload}")
    system_class = SYSTEMS[arguments.system]
    faulthandler.dump_traceback_later(workload.LIMIT - 1)  # shows in the log where a trial hangs
    figures = workload.measure(system_class, arguments.quick)
    if "cw" in system_class.modules and arguments.cw:
        import cw  # not before the measurement: `startup` measures the import

        if not Path(cw.__file__).is_relative_to(arguments.cw):
            sys.exit(f"cw was imported from {cw.__file__}, not from {arguments.cw}")
    partial = arguments.answer.with_suffix(".part")
    partial.write_text(json.dumps(figures))
    partial.rename(arguments.answer)


if __name__ == "__main__":
    main()
