"""Thousands of workers at once, as the benchmark `joining` plays them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MOST_LINES = 100
"""Lines for the loss of all workers: ten of each event at once, then one of each a second."""


@pytest.mark.slow
def test_a_thousand_workers_find_a_new_master_and_no_job_is_lost_or_run_twice(tmp_path):
    answer = tmp_path / "answer.json"
    trial = subprocess.run(
        [sys.executable, "-m", "benchmarks.trial", "joining", "cw-joiners", str(answer), "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert trial.returncode == 0, trial.stderr  # it checks that each job ran once, and its result
    figures = json.loads(answer.read_text())
    assert 2 <= figures["lines when all are lost"] < MOST_LINES
