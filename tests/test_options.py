"""What a user asks for when a cluster is started: one value, which is the signature of all that start one."""

import contextlib
import inspect
import logging

import pytest
from conftest import events

import cw
from cw import cluster
from cw.launch.options import FOR_SLURM, POSITIONAL, ClusterOptions, takes


@takes(ClusterOptions)
def start(options):
    """Start it."""
    return options


def test_all_that_start_a_cluster_have_its_fields_as_their_arguments():
    for module in (cw, cw.mp, cw.slurm):
        for function in (module.start, module.allocate):
            assert list(inspect.signature(function).parameters) == list(ClusterOptions._fields)
            assert function.__doc__ and function.__name__ in ("start", "allocate")
    assert "nworkers: int | None = None, master: bool = True" in str(inspect.signature(cw.start))


def test_arguments_by_position_and_name_make_the_value():
    assert start(3) == ClusterOptions(3)
    assert start(3, False, time="1:00") == ClusterOptions(3, master=False, time="1:00")
    assert start(*range(POSITIONAL)) == ClusterOptions(*range(POSITIONAL))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: start(), r"^start\(\) missing 1 required positional argument: 'nworkers'"),
        (lambda: start(1, nothing=2), r"^start\(\) got an unexpected keyword argument 'nothing'"),
        (lambda: start(*range(POSITIONAL + 1)), "takes up to 7 arguments without their names, not 8"),
    ],
)
def test_wrong_arguments_are_told_of_the_function_that_was_called(call, text):
    with pytest.raises(TypeError, match=text):
        call()


def test_arguments_of_a_container_may_be_one_text_or_none():
    assert ClusterOptions(1, docker_args="-v '/a b:/a' --rm").list_of("docker_args") == [
        "-v",
        "/a b:/a",
        "--rm",
    ]
    with pytest.raises(ValueError, match="is no line of arguments: no closing quotation"):
        ClusterOptions(1, docker_args="-v '/a").list_of("docker_args")
    assert ClusterOptions(1, docker_args=None).list_of("docker_args") == []
    assert ClusterOptions(1, apptainer_args=["--nv"]).list_of("apptainer_args") == ["--nv"]


def test_setup_is_a_list_of_lines_or_one_text():
    assert ClusterOptions(1, setup="module load gcc\n\n cd /x\n").list_of("setup") == [
        "module load gcc",
        " cd /x",
    ]
    assert ClusterOptions(1, setup=["a; b", "c\nd"]).list_of("setup") == ["a; b", "c", "d"]
    assert ClusterOptions(1, setup=None).list_of("setup") == []


def test_lists_of_arguments_are_texts_and_no_text():
    assert ClusterOptions(1, master_options=("--port", 5)).list_of("master_options") == ["--port", "5"]
    with pytest.raises(TypeError, match=r"worker_options is a list of arguments: \['-v'\], not '-v'"):
        ClusterOptions(1, worker_options="-v").list_of("worker_options")


def test_what_only_slurm_can_do_is_refused_by_the_local_launcher():
    assert {*FOR_SLURM} <= {*ClusterOptions._fields}
    for field in FOR_SLURM:
        with pytest.raises(ValueError, match=f"belong to clusters in Slurm .*: {field};"):
            cw.mp.start(1, **{field: ["x"] if field.endswith("args") else "x"})


def test_where_slurm_is_not_there_what_is_said_about_its_jobs_is_left_out(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(cluster.mp, "start", lambda **options: asked.append(options))
    monkeypatch.setattr(
        cluster.mp, "allocate", lambda **options: contextlib.nullcontext(asked.append(options))
    )
    with caplog.at_level(logging.INFO, "cw.start"):
        cw.start(2, worker_options=["--account=physics", "--grace", "3", "-v"], partition="long", renew=True)
    assert events(caplog) == ["start.options_left_out"]
    assert "partition renew --account=physics" in caplog.text
    with cw.allocate(2, time="1:00:00"):
        pass
    one, other = (ClusterOptions(**options) for options in asked)
    assert one == ClusterOptions(2, master_options=[], worker_options=["--grace", "3", "-v"])
    assert other == ClusterOptions(2, master_options=[], worker_options=[])
