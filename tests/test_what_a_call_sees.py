"""What calls see, in a user's script on 1, 2 and 3 slots. Right is what `ProcessPoolExecutor` gives, where it can."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import LIMIT

SCRIPT = Path(__file__).with_name("what_calls_see.py")

HELD = [3, "text", [1, 2]]
EACH = [[n, n, n, n, n] for n in range(10)]

RIGHT = {
    "one_object": [[[1], [2], [3]], [[1], [2], [3]], []],
    "equal_objects": [[7], [8]],
    "an_object_in_map": [[[1], [2], [3]]] * 3,
    "large_objects_in_map": [[5001] * 3] * 2,
    "callable_objects": [[1, 1, 1], [1, 1, 1], [1, 1, 1, 1], 0],
    "partials": [[[0], [1], [2]], [[0], [1], [2]], [[5], [5]], [[0], [1], [2]]],
    "local_functions": [
        [[0], [1], [2]],
        [[0], [1], [2]],
        *[[[0, 0], [1, 1], [2, 2]]] * 2,
        *[[[0], [1], [2]]] * 2,
    ],
    "local_functions_that_hold_constants": [
        [HELD + [[1]], HELD + [[[1]]], HELD + [[{"a": [2]}]]],
        [HELD + [[[1]]], HELD + [[[2]]]],
        [HELD + [[[1]]], HELD + [[[2]]]],
    ],
    "local_functions_that_hold_functions_of_the_script": [
        *([0, 0], 0, [0] * 4),
        *([1, 1], 1, [1] * 4),
        *([2, 2], 2, [2] * 4),
    ],
    "what_the_class_of_a_large_object_reads": [[[[7, 0]], [[7, 0]]], [[8, 0]], [8, 0]],
    "lambdas": [2, 2, 2],
    "estimators": ["cold 0", "cold 1", "cold 2", "cold 0", "cold 1"],
    "methods_of_built_in_objects": [[1, 1, 1], [1, 1], 1, 3],
    "an_array_changed_in_place": [[1, 1, 1, 2, 2, 2, 3, 3, 3]] * 3,
    "a_large_object_is_a_fresh_copy": [[1, 11], 10],
    "arguments": [[[0, 9], [0, 1, 9], [0, 1, 2, 9]], [0, 1, 2]],
    "items_of_map": [1, 2, 3],
    "items_of_map_in_chunks": [1, 2, 3],
    "the_object_of_a_map_is_taken_when_it_is_called": [[[0, 0, 0], [3, 3, 3]], 6],
    "globals_at_submit": EACH,
    "globals_at_map": [[[n] * 5] * 2 for n in range(3)],
    "jobs_that_wait_run_with_the_values_of_their_submit": [[[n, n, n] for n in range(6)], list(range(6))],
    "a_job_that_is_tried_again_runs_with_the_values_of_its_submit": [[7, 7, 7, 7, 7, 1], [[8] * 5] * 3],
    "globals_that_share_an_object": [[True] * 4, [True] * 4, [[1, 2], 5.0]],
    "values_that_come_back": [
        *([], [], 5, 5, [], [], "not here", "not here", [], [], "not here", "one"),
        *([], [], 6, 6, [1], [1], [], [], 5, 5),
    ],
    "attributes_that_go": [[1], "deleted", [2], 3, "deleted", [1]],
    "sentinels": [True, False, True, [True, True]],
    "objects_that_a_call_shares_with_its_arguments": [[True] * 3] * 6,
    "objects_that_a_call_shares_with_globals": [True] * 3,
    "objects_that_a_map_shares_with_globals": [[True, True], [True, True]],
    "one_class_one_identity": [True] * 5,
    "edited_code": ["first", "first", "second", "second", -5, [5]],
    "a_lock": [["NotPicklable", True, True], "not read", ["NameError", True, True]],
}

LEFT_BEHIND = {
    "default": [[0], [0, 1], [0, 1, 2]],
    "global": [1, 2, 3],
    "global, after another changed": [4, 1],
    "global, changed by the client": 11,
    "bound by a job": [True, False, False],
    "classmethod": [1, 2, 3],
    "classmethod in map": [4, 5],
    "memo": ["new", "new", "known"],
    "lru_cache": [[9, 0], [9, 1], [9, 2]],
    "attribute": [1, 2, 3],
    "class, changed by the client": 101,
    "at home": [[], [10], 100, None, False],
}


def run(slots, directory, source=SCRIPT):
    home = os.environ["CW_HOME"]
    command = [sys.executable, str(source), str(slots), str(directory)]
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "CW_HOME": home},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda slots: f"{slots} slots")
def slots(request):
    return request.param


@pytest.fixture(scope="module")
def found(slots, tmp_path_factory):
    return run(slots, tmp_path_factory.mktemp("calls"))


@pytest.mark.parametrize("row", RIGHT)
def test_a_row_gives_what_a_pool_gives(found, row):
    assert found[row] == RIGHT[row]


def test_all_rows_are_known(found):
    assert found.keys() == {*RIGHT, "left_behind"}


@pytest.mark.parametrize("slots", [1], indirect=True)  # with more it depends on the slots, as with every pool
@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_what_jobs_leave_in_the_script_stays_for_the_next(found, kind):
    assert found["left_behind"][kind] == LEFT_BEHIND[kind]
