"""The metrics of a snapshot, read by a parser of Prometheus' text format, and the file that holds them."""

import os
import re
import stat
from dataclasses import replace

import pytest

from cw.observer.prometheus import text, write
from tests.snapshots import sample, shaped

_HELP = re.compile(r"# HELP (?P<name>[a-z_][a-z0-9_]*) \S.*")
_TYPE = re.compile(r"# TYPE (?P<name>[a-z_][a-z0-9_]*) (?P<kind>gauge|counter|summary)")
_VALUE = r'"(?:[^"\\\n]|\\["\\n])*"'
_LABEL = re.compile(rf"(?P<name>[a-z_]+)=(?P<value>{_VALUE})")
_SAMPLE = re.compile(
    rf"(?P<name>[a-z0-9_]+)(?:\{{(?P<labels>[a-z_]+={_VALUE}(?:,[a-z_]+={_VALUE})*)\}})? (?P<value>\S+)"
)


def parse(content):
    """The values by name and labels, as a strict reader takes them: each metric has its help and its type, once, and
    all its samples follow."""
    found, kinds = {}, {}
    name = None
    assert content.endswith("\n")
    for line in content.splitlines():
        if line.startswith("# HELP"):
            name = _HELP.fullmatch(line)["name"]
            assert name not in kinds
        elif line.startswith("# TYPE"):
            match = _TYPE.fullmatch(line)
            assert match["name"] == name
            kinds[name] = match["kind"]
            assert (match["kind"] == "counter") == name.endswith("_total")
        else:
            match = _SAMPLE.fullmatch(line)
            assert match and match["name"] == name, line
            pairs = [
                (label["name"], label["value"][1:-1]) for label in _LABEL.finditer(match["labels"] or "")
            ]
            key = name, tuple(sorted(pairs))
            assert key not in found
            found[key] = float(match["value"])
    return found


def test_the_metrics_are_those_of_the_snapshot():
    found = parse(text(sample()))
    assert found["cw_up", ()] == 1
    assert found["cw_master_start_time_seconds", ()] == 1_800_000_000 - 7500
    simulate = ("function", "simulate"), ("program", "sim.py")
    assert found["cw_jobs", (*simulate, ("state", "waiting"))] == 1000
    assert found["cw_jobs", (*simulate, ("state", "running"))] == 7
    assert found["cw_job_duration_seconds", (simulate[0], simulate[1], ("quantile", "0.95"))] == 4.5
    assert found["cw_time_left_seconds", simulate] == 330
    assert found["cw_jobs_ended_total", (("result", "failed"),)] == 4
    assert found["cw_slots", (("state", "idle"),)] == 3
    assert found["cw_host_runner_memory_bytes", (("host", "node7"),)] == 3 * 2**30
    assert ("cw_host_load1", (("host", "node8"),)) not in found  # not reported yet


def test_without_a_master_the_file_says_so():
    assert parse(text(None)) == {("cw_up", ()): 0}


def test_clients_of_one_program_are_summed_up():
    shown = sample()
    again = replace(shown.functions[0], session="1" * 16)
    client = replace(shown.clients[0], session="1" * 16)
    found = parse(text(replace(shown, functions=(*shown.functions, again), clients=(*shown.clients, client))))
    assert found["cw_jobs", (("function", "simulate"), ("program", "sim.py"), ("state", "waiting"))] == 2000


def test_labels_are_escaped():
    shown = sample()
    odd = replace(shown.functions[0], name='a"b\\c\nd')
    found = parse(text(replace(shown, functions=(odd,))))
    assert (
        found["cw_jobs", (("function", r"a\"b\\c\nd"), ("program", "sim.py"), ("state", "waiting"))] == 1000
    )


def test_prometheus_own_parser_reads_it():
    parser = pytest.importorskip("prometheus_client.parser")
    families = {family.name: family for family in parser.text_string_to_metric_families(text(sample()))}
    assert families["cw_jobs"].type == "gauge" and families["cw_jobs_ended"].type == "counter"
    assert families["cw_job_duration_seconds"].type == "summary"


def test_the_file_is_replaced_as_a_whole_and_may_be_read_by_others(tmp_path):
    path = tmp_path / "cw.prom"
    path.write_text("before")
    with open(path) as reader:
        write(str(path), "after")
        assert reader.read() == "before"
    assert path.read_text() == "after" and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["cw.prom"]
    with pytest.raises(OSError):
        write(str(tmp_path / "no" / "cw.prom"), "x")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):
        write(str(path), "x")
    assert os.listdir(tmp_path) == ["cw.prom"]


def test_what_jobs_need_and_what_is_taken():
    found = parse(text(shaped()))
    assert found["cw_cpus", (("state", "used"),)] == 10 and found["cw_cpus", (("state", "free"),)] == 6
    assert found["cw_gpus", (("state", "used"),)] == 1.5
    assert found["cw_memory_bytes", (("state", "free"),)] == 56e9
    assert found["cw_host_cpus", (("host", "node8"), ("state", "free"))] == 3
    needs = ("needs", "8 CPUs, 0.5 GPU or 16 CPUs"), ("python", "3.11")
    assert found["cw_shape_jobs", (*needs, ("state", "waiting"))] == 170
    plain = {name for name, _ in parse(text(sample()))}
    assert "cw_cpus" in plain and not {"cw_gpus", "cw_memory_bytes", "cw_shape_jobs"} & plain
