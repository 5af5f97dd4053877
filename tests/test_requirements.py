"""The options of a job: one value that says what is wrong, compares, and comes back from the wire as it was."""

import dataclasses
import inspect
import json
import math
from typing import get_type_hints

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cw
from cw.errors import ProtocolError, WorkerLost
from cw.needs import MOST_AMOUNT, MOST_BYTES, MOST_CPUS, MOST_NODES, ONE_CPU, UNITS_PER_GPU, Needs
from cw.requirements import (
    MOST_PRIORITY,
    MOST_SECONDS,
    MOST_SLOTS,
    NO_OPTIONS,
    OPTIONS_BYTES,
    JobOptions,
    OptionArguments,
    WorkerCapacity,
    takes_options,
    to_options,
)

SECONDS = st.floats(min_value=1e-9, max_value=1e12)
NAMES = st.text("abcXYZ019_.:-", min_size=1, max_size=20).filter(lambda name: name[0] not in ".:-")
GPUS = st.integers(1, 16) | st.integers(1, UNITS_PER_GPU).map(lambda units: units / UNITS_PER_GPU)

VALUES = {
    "attempts": st.integers(1, 10**6), "timeout": SECONDS, "min_time": SECONDS, "on_limit": st.just("keep"),
    "attempts_by_limit": st.integers(1, 10**6),
    "retries": st.integers(0, 10**6), "priority": st.integers(-MOST_PRIORITY, MOST_PRIORITY),
    "output": st.sampled_from(["print", "keep", "log", "drop"]), "cpus": st.integers(1, MOST_CPUS), "gpus": GPUS,
    "memory": st.integers(1, MOST_BYTES), "resources": st.dictionaries(NAMES, st.integers(1, MOST_AMOUNT), max_size=8),
    "tags": st.lists(NAMES, max_size=8),
}  # fmt: skip
VALUES["nodes"] = st.integers(1, MOST_NODES)
DIMENSIONS = {name: VALUES[name] for name in ("cpus", "gpus", "memory", "resources", "tags")}
VALUES["alternatives"] = st.lists(st.fixed_dictionaries({}, optional=DIMENSIONS), min_size=1, max_size=3)
"""Valid values of each option: a new one is missed by the test below."""


@given(st.fixed_dictionaries({name: st.none() | valid for name, valid in VALUES.items()}))
def test_options_come_back_from_the_wire_as_they_were(values):
    assert {*values, "retry_on"} == {option.name for option in dataclasses.fields(JobOptions)}
    options = JobOptions(**values)
    wire = options.to_wire()
    assert None not in json.loads(wire).values() and len(wire) <= OPTIONS_BYTES
    assert JobOptions.from_wire(wire) == JobOptions.from_wire(memoryview(wire)) == options
    assert hash(JobOptions.from_wire(wire)) == hash(options)


def test_what_a_job_needs_is_one_vector():
    assert NO_OPTIONS.needs == JobOptions(cpus=1).needs == ONE_CPU
    options = JobOptions(
        cpus=4, gpus=0.5, memory="8GB", resources={"licence": 1, "disk": 2}, tags=["b", "a", "a"]
    )
    assert options.needs == Needs(4, UNITS_PER_GPU // 2, 8 * 10**9, (("disk", 2), ("licence", 1)), ("a", "b"))
    assert JobOptions(tags="a").needs.tags == ("a",) and JobOptions(gpus=2).needs.gpus == 2 * UNITS_PER_GPU


def test_nodes_are_part_of_the_vector_and_the_same_in_all_alternatives():
    assert JobOptions(nodes=1).needs == ONE_CPU and JobOptions(nodes=2).needs == Needs(nodes=2)
    options = JobOptions(nodes=3, alternatives=[{"gpus": 1}, {"cpus": 16}])
    assert options.choices == (Needs(gpus=UNITS_PER_GPU, nodes=3), Needs(16, nodes=3))
    with pytest.raises(ValueError, match="'nodes' cannot differ between them; cpus, "):
        JobOptions(alternatives=[{"nodes": 2}, {"cpus": 16}])


def test_an_alternative_replaces_what_it_names_and_has_the_other_options_besides():
    options = JobOptions(memory="1GB", cpus=2, alternatives=[{"gpus": 1}, {"cpus": 16, "memory": "4GB"}, {}])
    gb = 10**9
    assert options.choices == (Needs(2, UNITS_PER_GPU, gb), Needs(16, 0, 4 * gb), Needs(2, 0, gb))
    assert options.needs == options.choices[0]
    assert options == JobOptions(
        memory=gb, cpus=2, alternatives=[[("gpus", 1)], [("memory", 4e9), ("cpus", 16)], ()]
    )


def test_alternatives_that_are_too_long_for_the_wire_are_refused_at_once():
    wide = {"resources": {f"{name:060}": 1 for name in range(16)}}
    with pytest.raises(ValueError, match="^alternatives must not be that long"):
        JobOptions(alternatives=[wide] * 8)


def test_options_that_are_not_given_do_not_travel():
    assert NO_OPTIONS.to_wire() == b"{}" and JobOptions.from_wire(b"{}") == NO_OPTIONS
    assert JobOptions(timeout=2).to_wire() == b'{"timeout":2.0}'
    assert JobOptions(timeout=2) == JobOptions(timeout=2.0) != NO_OPTIONS


def test_exceptions_that_are_tried_again_are_the_clients_alone():
    options = JobOptions(retries=2, retry_on=(OSError, KeyError))
    assert options.to_wire() == b'{"retries":2}' and hash(options) != hash(JobOptions(retries=2))
    assert JobOptions(retries=2, retry_on=OSError) == JobOptions(retries=2, retry_on=(OSError,))
    with pytest.raises(ProtocolError, match="unknown option 'retry_on'"):
        JobOptions.from_wire(b'{"retries":2,"retry_on":1}')


def test_numbers_of_numpy_are_numbers():
    options = JobOptions(attempts=numpy.int64(2), timeout=numpy.float32(0.5))
    assert options == JobOptions(attempts=2, timeout=0.5) == JobOptions.from_wire(options.to_wire())


def test_a_limit_beyond_thirty_years_is_cut_to_that():
    assert JobOptions(timeout=1e300).timeout == MOST_SECONDS


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        JobOptions(attempts=1).attempts = 2


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"attempts": 0}, "attempts must be 1 or more, not 0"),
        ({"attempts": 1.5}, "attempts must be an int, not 1.5"),
        ({"attempts": True}, "attempts must be an int, not True"),
        ({"priority": 1.5}, "priority must be an int, not 1.5"),
        ({"priority": "high"}, "priority must be an int, not 'high'"),
        ({"priority": 2**63}, f"priority must be from {-MOST_PRIORITY} to {MOST_PRIORITY}, not {2**63}"),
        ({"retries": -1}, "retries must be 0 or more, not -1"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"timeout": math.inf}, "timeout must be a number of seconds above 0, not inf"),
        ({"timeout": "1"}, "timeout must be a number of seconds, not '1'"),
        ({"min_time": math.nan}, "min_time must be a number of seconds above 0, not nan"),
        ({"output": "quiet"}, "output must be one of 'print', 'keep', 'log', 'drop' or None, not 'quiet'"),
        ({"output": 1}, "output must be one of 'print', 'keep', 'log', 'drop' or None, not 1"),
        ({"cpus": 0}, "cpus must be 1 or more, not 0"),
        ({"cpus": 0.5}, "cpus must be an int, not 0.5"),
        ({"gpus": 1.5}, "gpus must be a whole number, or a part of one device such as 0.5, not 1.5"),
        ({"gpus": "1"}, "gpus must be a number, not '1'"),
        ({"memory": "lots"}, 'memory must be a size such as "8GB" or "512MiB", not \'lots\''),
        ({"memory": True}, 'memory must be a number of bytes, or a size such as "8GB", not True'),
        (
            {"resources": {"licence": 0.5}},
            """resources must be whole numbers by name, such as {"licence": 1}, not {'licence': 0.5}""",
        ),
        (
            {"resources": ["licence"]},
            """resources must be whole numbers by name, such as {"licence": 1}, not ['licence']""",
        ),
        ({"tags": 3}, 'tags must be a text such as "avx512", or several, not 3'),
        ({"tags": "a b"}, "tags: 'a b' is no name: give letters, digits and _ . : -, at most 64"),
        (
            {"alternatives": {"gpus": 1}},
            """alternatives must be a list of options, such as [{"gpus": 1}, {"cpus": 16}], not {'gpus': 1}""",
        ),
        (
            {"alternatives": ["gpus"]},
            """alternatives must be a list of options, such as [{"gpus": 1}, {"cpus": 16}], not ['gpus']""",
        ),
        ({"alternatives": []}, "alternatives must have from 1 to 8 entries, not 0"),
        (
            {"alternatives": [{"timeout": 3}]},
            "alternatives: 'timeout' cannot differ between them; cpus, gpus, memory, resources, tags can",
        ),
        ({"alternatives": [{"cpus": 0}]}, "alternatives: cpus must be 1 or more, not 0"),
        ({"on_limit": "drop"}, "on_limit must be 'keep' or None, not 'drop'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(option, error):
    with pytest.raises((TypeError, ValueError)) as raised:
        JobOptions(**option)
    assert str(raised.value) == error
    with pytest.raises(ProtocolError, match="^an (invalid|unknown) option"):
        JobOptions.from_wire(json.dumps(option).encode())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retry_on": OSError}, "retry_on needs retries: "),
        ({"retries": 1, "retry_on": "OSError"}, "a class of exceptions, or a tuple of such, not 'OSError'"),
        ({"retries": 1, "retry_on": [OSError]}, "a class of exceptions, or a tuple of such, not ["),
        ({"retries": 1, "retry_on": OSError(3)}, "a class of exceptions, or a tuple of such, not OSError(3)"),
        ({"retries": 1, "retry_on": int}, "a class of exceptions, or a tuple of such, not <class 'int'>"),
        ({"retries": 1, "retry_on": ()}, "retry_on must have at least one class of exceptions"),
        ({"retries": 1, "retry_on": (OSError, SystemExit)}, "a job that raises SystemExit wants to end"),
        ({"retries": 1, "retry_on": WorkerLost}, "attempts=N is for what kills its runner"),
    ],
)
def test_a_wrong_retry_on_is_named_with_what_is_right(options, error):
    with pytest.raises((TypeError, ValueError)) as raised:
        JobOptions(**options)
    assert error in str(raised.value)


@pytest.mark.parametrize(
    "options", [{"colour": 1}, {"timeout": 10**400}, {"timeout": [1]}, {"attempts": {}}, {"attempts": None}]
)
def test_what_a_faulty_peer_asks_for_is_a_protocol_error(options):
    with pytest.raises(ProtocolError):
        JobOptions.from_wire(json.dumps(options).encode())


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[]", b"7", b"[" * 4000])
def test_a_payload_that_holds_no_options_is_a_protocol_error(payload):
    with pytest.raises(ProtocolError, match="^options that are "):
        JobOptions.from_wire(payload)


def test_options_on_the_wire_have_a_bounded_size():
    padded = b'{"attempts":1}' + b" " * OPTIONS_BYTES
    assert JobOptions.from_wire(padded[:OPTIONS_BYTES]) == JobOptions(attempts=1)
    with pytest.raises(ProtocolError, match="options of 4097 bytes"):
        JobOptions.from_wire(padded[: OPTIONS_BYTES + 1])


# --- the arguments of the methods `options` ---------------------------------------------------


class Taker:
    @takes_options
    def options(self, *, key=None, **options):
        """Take some.

        Such as:
        """
        return key, to_options(options)


def test_type_checkers_know_the_same_options():
    assert list(get_type_hints(OptionArguments).items()) == list(get_type_hints(JobOptions).items())


def test_options_are_arguments_of_the_methods_that_take_them():
    names = [option.name for option in dataclasses.fields(JobOptions)]
    assert list(inspect.signature(Taker.options).parameters) == ["self", *names, "key"]
    assert list(inspect.signature(Taker().options).parameters) == [*names, "key"]
    assert Taker().options(timeout=2, key="k") == ("k", JobOptions(timeout=2))
    assert Taker().options() == (None, NO_OPTIONS) and to_options({"timeout": None}) is NO_OPTIONS
    assert Taker.options.__doc__.startswith("Take some.\n\nSuch as:\n\n`attempts`: number of runners ")


@pytest.mark.parametrize("method", [Taker().options, cw.ClientThread().options])
def test_an_unknown_option_is_a_type_error_that_lists_the_right_ones(method):
    with pytest.raises(TypeError) as raised:
        method(timout=1)
    names = ", ".join(inspect.signature(method).parameters)
    assert str(raised.value) == f"options() got an unexpected keyword argument 'timout'; it takes {names}"


# --- the other side ---------------------------------------------------------------------------

WHOLE = WorkerCapacity(1).to_wire()


@pytest.mark.parametrize(
    "capacity",
    [
        WorkerCapacity(8),
        WorkerCapacity(2, 16, 64 * 10**9, ("0", "GPU-5"), (("licence", 3),), ("avx512", "node:a")),
    ],
)
def test_a_capacity_comes_back_from_the_wire_as_it_was(capacity):
    offer = json.loads(json.dumps(capacity.to_wire()))
    assert WorkerCapacity.from_wire(offer) == capacity
    assert hash(WorkerCapacity.from_wire(offer)) == hash(capacity)


def test_a_worker_has_a_cpu_for_each_slot_at_least():
    assert WorkerCapacity(8).cpus == WorkerCapacity(8, 2).cpus == 8 and WorkerCapacity(1, 16).cpus == 16


@pytest.mark.parametrize(
    "offer",
    [
        3,
        [],
        {},
        WHOLE | {"x": 1},
        WHOLE | {"slots": 0},
        WHOLE | {"slots": MOST_SLOTS + 1},
        WHOLE | {"slots": True},
        WHOLE | {"slots": 1.0},
        WHOLE | {"cpus": -1},
        WHOLE | {"memory": []},
        WHOLE | {"gpus": 3},
        WHOLE | {"gpus": ["0", "0"]},
        WHOLE | {"gpus": [1]},
        WHOLE | {"gpus": list(map(str, range(2000)))},
        WHOLE | {"resources": {"x": 0}},
        WHOLE | {"resources": [[1, 2, 3]]},
        WHOLE | {"tags": [3]},
        WHOLE | {"tags": list(map(str, range(100)))},
    ],
)
def test_what_a_faulty_worker_offers_is_a_protocol_error(offer):
    with pytest.raises(ProtocolError, match="^it offers "):
        WorkerCapacity.from_wire(offer)


def test_a_worker_lacks_what_it_has_too_little_of_even_if_it_is_empty():
    worker = WorkerCapacity(2, 8, 16 * 10**9, ("0", "1"), (("licence", 1),), ("avx512",))
    assert worker.lacks(ONE_CPU) == worker.lacks(Needs(8, 2 * UNITS_PER_GPU, 16 * 10**9)) == ()
    assert worker.lacks(Needs(9, 3 * UNITS_PER_GPU)) == ("cpus", "gpus")
    assert worker.lacks(Needs(memory=16 * 10**9 + 1)) == ("memory",)
    assert (
        worker.lacks(Needs(resources=(("licence", 2),)))
        == worker.lacks(Needs(resources=(("x", 1),)))
        == ("resources",)
    )
    assert worker.lacks(Needs(tags=("avx512", "big"))) == ("tags",)


def test_a_worker_on_several_nodes_is_for_jobs_on_as_many_one_at_a_time():
    pair = WorkerCapacity(1, 8, nodes=2)
    assert pair.lacks(Needs(8, nodes=2)) == () and pair.lacks(Needs(9, nodes=2)) == ("cpus",)
    assert pair.lacks(ONE_CPU) == pair.lacks(Needs(nodes=3)) == ("nodes",)
    assert WorkerCapacity(8).lacks(Needs(nodes=2)) == ("nodes",)
    with pytest.raises(ValueError, match="^slots must be 1 on 2 nodes, not 3$"):
        WorkerCapacity(3, nodes=2)


def test_a_worker_of_unknown_memory_refuses_no_job_for_it():
    assert WorkerCapacity(1).lacks(Needs(memory=10**15)) == ()
