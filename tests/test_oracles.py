"""Calls see what they see with other pools, whatever the objects and their changes: a search, in `oracles.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import LIMIT

SCRIPT = Path(__file__).with_name("oracles.py")

KINDS = [
    ("receivers,left_behind,large_arguments", 1),
    ("receivers,large_receivers,local_functions,client_globals,client_globals_at_map", 2),
]


def search(kinds, examples, slots, directory, timeout):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kinds, str(examples), str(slots)],
        cwd=directory,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "slots"), KINDS)
def test_a_short_search_finds_no_difference(kinds, slots, tmp_path):
    search(kinds, 8, slots, tmp_path, 2 * LIMIT)


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("kinds", "slots"), KINDS)
def test_a_long_search_finds_no_difference(kinds, slots, tmp_path):
    search(kinds, -100, slots, tmp_path, 900)
