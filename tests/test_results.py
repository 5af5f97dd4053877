"""Reading a store: `cw.results`, and `python -m cw.results`."""

import collections
import csv
import dataclasses
import datetime
import io
import json
import os
import pickle
import subprocess
import sys

import pytest
from conftest import events
from pickles import dump_call
from programs import ROOT, Program
from test_store import entry, written

import cw
from cw.payloads import serialize


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def call(number, value=None, *, error=None, function="f", host="node1", args=None, kwargs=None):
    if error is not None:
        payload = serialize.dump_error(error, {"host": host})
    else:
        payload = serialize.dump_result(value)
    arguments = dump_call((number,) if args is None else args, kwargs or {})
    return entry(number, payload, status=int(error is not None), args=arguments, function=function, host=host)


@pytest.fixture
def path(tmp_path):
    return written(
        tmp_path / "s",
        call(1, "one"),
        call(2, {"two": 2.5}, function="g", kwargs={"x": 3}),
        call(3, error=LookupError("no such star")),
        call(4, b"four", host="node2"),
    )


def show(*arguments, status=0):
    """What `python -m cw.results` prints."""
    with Program("-m", "cw.results", *arguments) as program:
        assert program.wait() == status, program.err
        return program.out if not status else program.err


def test_each_result_has_what_is_known_of_it(path):
    first, second, third, _ = cw.results(path)
    assert (first.key, first.jobid, first.function) == ("01" + "00" * 15, 1, "f")
    assert (first.args, first.kwargs, first.value, first.error, first.failed) == (
        (1,),
        {},
        "one",
        None,
        False,
    )
    assert first.when.timestamp() == 1e9 + 1 and first.when.tzinfo is not None
    assert (first.seconds, first.host) == (0.5, "node1")
    assert (second.args, second.kwargs) == ((2,), {"x": 3})
    assert third.failed and isinstance(third.error, LookupError)
    with pytest.raises(LookupError, match="no such star"):
        third.value  # noqa: B018
    assert repr(first).startswith("<f() done in 0.5 s on node1, 2001-09-0")


def test_filters_may_be_combined(path):
    results = cw.results(path)

    def numbers(**wanted):
        return [result.jobid for result in results.filter(**wanted)]

    assert len(results) == 4 and numbers() == [1, 2, 3, 4]
    assert numbers(function="f") == [1, 3, 4] and numbers(function="no") == []
    assert numbers(failed=True) == [3] and numbers(failed=False) == [1, 2, 4]
    assert numbers(host="node2") == [4] and numbers(host="node1", function="g") == [2]
    time = datetime.datetime.fromtimestamp(1e9 + 2, datetime.timezone.utc)
    assert numbers(since=time) == [2, 3, 4] and numbers(until=time) == [1, 2]
    assert [r.jobid for r in results.filter(since=time).filter(until=time)] == [2]


def test_it_counts_by_function(path):
    assert cw.results(path).summary() == {
        "f": {"done": 2, "failed": 1, "seconds": 1.5}, "g": {"done": 1, "failed": 0, "seconds": 0.5}
    }  # fmt: skip


def test_nothing_is_unpickled_before_it_is_asked_for(tmp_path):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    path = written(tmp_path / "s", entry(1, trap, args=trap), entry(2, trap, args=trap, status=1))
    results = cw.results(path)
    assert len(results) == 2 and len(results.filter(failed=True)) == 1 and results.summary()
    first, second = results
    assert first.failed is False and second.seconds == 0.5 and first.when and repr(first)
    assert "f" in show(path)
    assert not (tmp_path / "sprung").exists()
    first.value  # noqa: B018
    assert (tmp_path / "sprung").exists()


def test_a_data_frame(path):
    pandas = pytest.importorskip("pandas")
    frame = cw.results(path).to_dataframe(whole=True)
    assert list(frame.columns) == [
        "key", "jobid", "function", "failed", "args", "kwargs", "value", "error", "when", "seconds", "host",
        "cpu_seconds", "peak_memory",
    ]  # fmt: skip
    assert list(frame["failed"]) == [False, False, True, False]
    assert list(frame["jobid"]) == [1, 2, 3, 4] and frame["value"][1] == {"two": 2.5}
    assert pandas.api.types.is_datetime64_any_dtype(frame["when"]) and frame["seconds"].sum() == 2
    empty = cw.results(path).filter(function="no").to_dataframe(whole=True)
    assert list(empty.columns) == list(frame.columns) and empty.empty


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Config:
    rate: float
    key: str = "k"


def test_each_argument_and_each_field_has_a_column(tmp_path, script, caplog):
    pandas = pytest.importorskip("pandas")
    script("def sweep(density, seed=0, *more, key=None, **others): pass")
    config = Config(0.5)
    path = written(
        tmp_path / "s",
        call(1, {"steps": 7, "crossed": True}, function="sweep", args=(0.1,)),
        call(2, Point(1, 2), function="sweep", args=(0.2, 5, "m"), kwargs={"key": "k", "z": 3}),
        call(3, error=LookupError("no, none"), function="gone", args=(config, 4), kwargs={"last": None}),
        call(4, 8.5, function="sweep", args=(), kwargs={"wrong": 1}),  # an earlier form of the function
    )
    columns = [
        "key", "jobid", "function", "failed", "density", "seed", "more0", "args.key", "z", "arg0.rate", "arg0.key",
        "arg1", "last", "wrong", "value.steps", "value.crossed", "value.x", "value.y", "value", "error", "when",
        "seconds", "host", "cpu_seconds", "peak_memory",
    ]  # fmt: skip
    frame = cw.results(path).to_dataframe()
    assert list(frame.columns) == columns and not events(caplog)
    assert frame["density"].tolist()[:2] == [0.1, 0.2] and frame["density"].isna().tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert frame["value.steps"][0] == 7 and frame["value.y"][1] == 2 and frame["value"][3] == 8.5
    assert frame["arg0.rate"][2] == 0.5 and isinstance(frame["error"][2], LookupError)
    assert pandas.api.types.is_datetime64_any_dtype(frame["when"])
    cw.results(path).to_csv(tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == columns
    assert (rows[0]["density"], rows[0]["seed"], rows[0]["value.crossed"], rows[0]["failed"]) == (
        "0.1",
        "",
        "True",
        "False",
    )
    assert (
        rows[2]["error"] == "LookupError: no, none"
        and rows[2]["arg0.key"] == "k"
        and rows[3]["value"] == "8.5"
    )
    assert datetime.datetime.fromisoformat(rows[0]["when"]).timestamp() == 1e9 + 1
    empty = cw.results(path).filter(function="no").to_dataframe()
    assert list(empty.columns) == [*columns[:4], "value", *columns[-6:]] and empty.empty


def test_results_have_positions(path):
    results = cw.results(path)
    assert (
        results[0].jobid == 1 and results[-1].jobid == 4 and [each.jobid for each in results[1:3]] == [2, 3]
    )
    assert results.filter(failed=True)[0].jobid == 3
    with pytest.raises(IndexError):
        results[4]


def test_a_notebook_shows_a_summary_and_unpickles_nothing(tmp_path, path):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    written(path, entry(7, trap, args=trap, function="<lambda>"))
    shown = cw.results(path)._repr_html_()
    assert f"results of {path}" in shown and "<td>g</td><td>1</td><td>0</td><td>0.5</td>" in shown
    assert "<td>&lt;lambda&gt;</td>" in shown and not (tmp_path / "sprung").exists()


def test_without_pandas_it_says_so(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="needs pandas, which is not installed"):
        cw.results(path).to_dataframe()


def test_what_cannot_be_loaded_here_is_no_reason_to_stop(tmp_path, caplog):
    unknown = b"\x80\x05\x8c\x0eno_such_module\x8c\x01f\x93."
    path = written(tmp_path / "s", entry(1, unknown, args=unknown), call(2, "two"))
    first, second = cw.results(path)
    with pytest.raises(ModuleNotFoundError):
        first.value  # noqa: B018
    assert second.value == "two"
    lines = show(path, "--list").splitlines()
    assert "(ModuleNotFoundError: No module named 'no_such_module')" in lines[0] and "-> two" in lines[1]
    pytest.importorskip("pandas")
    frame = cw.results(path).to_dataframe()
    assert frame["value"].isna().tolist() == frame["arg0"].isna().tolist() == [True, False]
    assert events(caplog) == ["store.values_missing"]
    assert "2 values" in caplog.text and "no_such_module" in caplog.text


def test_what_is_damaged_is_passed_over_with_a_warning(path, caplog):
    written(path, call(5, b"x" * 2_000_000))
    (large,) = (path / "large").iterdir()
    large.write_bytes(b"short")
    assert [result.jobid for result in cw.results(path)] == [1, 2, 3, 4]
    assert events(caplog) == ["store.result_damaged"]
    with Program("-m", "cw.results", path, "--list") as program:
        assert (
            program.wait() == 0
            and program.out.count("\n") == 4
            and program.events == ["store.result_damaged"]
        )


# --- the program ------------------------------------------------------------------------------


def test_the_summary(path):
    lines = [line.split() for line in show(path).splitlines()]
    assert lines == [
        ["function", "done", "failed", "seconds"],
        ["f", "2", "1", "1.5"],
        ["g", "1", "0", "0.5"],
    ]
    assert show(path, "--summary", "--function", "g").count("\n") == 2
    assert show(path, "--host", "nowhere") == "no results\n"


def test_the_list(path):
    lines = show(path, "--list").splitlines()
    assert [line[19:] for line in lines] == [
        "  done        0.500 s  node1  f(1) -> one",
        "  done        0.500 s  node1  g(2, x=3) -> {'two': 2.5}",
        "  failed      0.500 s  node1  f(3) -> LookupError: no such star",
        "  done        0.500 s  node2  f(4) -> b'four'",
    ]
    assert show(path, "--list", "--failed").count("\n") == 1
    assert show(path, "--list", "--done", "--host", "node2").count("\n") == 1


def test_csv_and_json_lines(path):
    rows = list(csv.DictReader(io.StringIO(show(path, "--csv"))))
    assert [row["value"] for row in rows] == ["one", "{'two': 2.5}", "", "b'four'"]
    assert [row["error"] for row in rows] == ["", "", "LookupError: no such star", ""]
    assert [row["jobid"] for row in rows] == list("1234") and rows[1]["kwargs"] == "{'x': 3}"
    lines = [json.loads(line) for line in show(path, "--jsonl").splitlines()]
    assert [line["value"] for line in lines] == ["one", {"two": 2.5}, None, "b'four'"]
    assert [line["error"] for line in lines] == [None, None, "LookupError: no such star", None]
    assert [line["failed"] for line in lines] == [False, False, True, False]
    assert (
        lines[0]["args"] == [1]
        and lines[1]["kwargs"] == {"x": 3}
        and lines[0]["when"].startswith("2001-09-0")
    )


def test_what_a_call_printed(tmp_path):
    kept = call(1, "one")._replace(output=(b"step 1\n\xff", b"hot\n"))
    failed = call(3, error=LookupError("no such star"))._replace(output=(b"step 1\n", b""))
    path = written(tmp_path / "s", kept, call(2, "two"), failed)
    first, second, third = cw.results(path)
    assert (first.stdout, first.stderr) == ("step 1\n\ufffd", "hot\n")
    assert (second.stdout, second.stderr) == (None, None)
    assert "its last output (stdout):\n  step 1\n" in str(third.error.__cause__)
    with Program("-m", "cw.results", path, "--output", first.key[:12].upper()) as program:
        assert program.wait() == 0 and program.out == first.stdout and program.err == first.stderr
    unknown = show(path, "--output", "00", status=1)
    assert "a key that begins with '00': `" in unknown and f"cw results {path} --jsonl` shows" in unknown
    assert "was not kept" in show(path, "--output", second.key, status=1)
    assert "3 results have a key that begins with ''" in show(path, "--output", "", status=1)


def test_values_of_all_kinds_are_shown(tmp_path):
    numpy = pytest.importorskip("numpy")
    values = [
        numpy.float64(0.5), numpy.int64(5), numpy.bool_(True), (1, numpy.float32(2)), {1: "a", "1": "b"}, "a\nb",
        "\ud800", "x" * 1000, float("nan"), numpy.float32(0.1), numpy.datetime64("2026-01-31", "ns"), 10**5000,
    ]  # fmt: skip
    path = written(tmp_path / "s", *(call(number, value) for number, value in enumerate(values)))
    lines = [json.loads(line)["value"] for line in show(path, "--jsonl").splitlines()]
    assert lines[:6] == [0.5, 5, True, [1, 2.0], "{1: 'a', '1': 'b'}", "a\nb"]
    assert lines[6:11] == ["\ud800", "x" * 1000, "nan", 0.1, "2026-01-31T00:00:00.000000000"]
    assert "ValueError" in lines[11]  # Python itself does not write it
    rows = [row["value"] for row in csv.DictReader(io.StringIO(show(path, "--csv")))]
    assert rows[:3] == ["0.5", "5", "True"] and rows[5:7] == ["a\nb", "\\ud800"]
    lines = show(path, "--list").splitlines()
    assert len(lines) == len(values) and lines[5].endswith("-> a\\nb") and len(lines[7]) < 300


def test_results_of_a_time(path):
    first = datetime.datetime.fromtimestamp(1e9 + 2)
    assert len(cw.results(path).filter(since=first)) == 3
    lines = show(path, "--jsonl", "--since", first.isoformat(), "--until", first.isoformat()).splitlines()
    assert [json.loads(line)["jobid"] for line in lines] == [2]
    assert "is no time: give" in show(path, "--since", "yesterday", status=2)
    with pytest.raises(TypeError, match="since and until are times"):
        cw.results(path).filter(since="2020-01-01")


def test_a_store_is_tidied_and_verified(tmp_path):
    path = written(tmp_path / "s", call(1, "one"), call(2, error=LookupError("no such star")))
    written(path, call(2, "two"), call(3, "three"))
    results = cw.results(path)
    assert show(path, "--verify").startswith("4 results in 2 files, ")
    assert show(path, "--tidy").startswith(
        "merged 2 files of results into 1: 3 results; dropped 1 superseded\n"
    )
    assert [result.value for result in results] == [result.value for result in cw.results(path)]
    assert show(path, "--tidy").startswith("nothing to merge\n")
    written(path, call(4))
    assert results.tidy().merged == 2 and len(results) == 4 and results.verify().is_intact
    with pytest.raises(ValueError, match="is for a whole store"):
        results.filter(function="f").tidy()
    assert "--tidy is for a whole store: leave out --function" in show(
        path, "--tidy", "--function", "f", status=2
    )
    assert "not allowed with" in show(path, "--tidy", "--verify", status=2)
    (segment,) = path.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[-200] ^= 1
    segment.write_bytes(data)
    with Program("-m", "cw.results", path, "--verify") as program:
        assert program.wait() == 1
        assert f"{segment.name}: " in program.out and "are damaged: 1 result is lost\n" in program.out
    assert "there is no store" in show(tmp_path / "no", "--tidy", status=1)


def test_without_an_output_that_is_told(path):
    done = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -m cw.results "{path}" >&-'], capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)  # fmt: skip
    assert done.returncode == 1 and done.stderr == "cw.results: the output cannot be written: there is none\n"


def test_mistakes_on_the_command_line(tmp_path):
    assert show(tmp_path / "no", status=1) == f"cw.results: there is no store {tmp_path}/no\n"
    (tmp_path / "file").touch()
    assert "is a file and no store" in show(tmp_path / "file", status=1)
    assert "usage:" in show(status=2)
    assert "not allowed with" in show(tmp_path, "--csv", "--list", status=2)


def test_a_full_disk_for_the_output_is_told(path):
    for form in ("--csv", "--summary"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "cw.results", path, form],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert (done.returncode, done.stderr) == (
            1,
            "cw.results: the output cannot be written: No space left on device\n",
        )
