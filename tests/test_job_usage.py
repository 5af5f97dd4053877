"""What jobs have used, behind their results."""

import os
import subprocess
import sys
import time

import jobs
import numpy
import pytest
from programs import LIMIT

import cw
from cw.net import memory
from cw.payloads import current, job_usage, serialize

MIB = 2**20
USED = job_usage.Usage(1.234, 100 * MIB)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text.",
        b"x" * 100,
        [1, 2],
        numpy.zeros(10),
        numpy.zeros(100_000),
        [numpy.zeros(5000), numpy.ones(9999)],
    ],
    ids=lambda value: str(type(value)),
)
def test_it_is_behind_any_payload_which_loads_as_before(value, monkeypatch):
    monkeypatch.setattr(job_usage, "_measure", lambda: USED)
    monkeypatch.setattr(current, "began", 0.0)
    plain = serialize.dump_result(value, memory.store)
    assert job_usage.usage_of(plain) is None
    payload = job_usage.attach(serialize.dump_result(value, job_usage.store))
    assert len(payload) == len(plain) + 8 and job_usage.usage_of(payload) == USED
    numpy.testing.assert_equal(serialize.load_result(payload), value)
    noted = serialize.with_text(payload, "a note")
    assert job_usage.usage_of(noted) == USED
    numpy.testing.assert_equal(serialize.load_result(serialize.split_text(noted)[1]), value)


def test_it_is_behind_an_error(monkeypatch):
    monkeypatch.setattr(job_usage, "_measure", lambda: USED)
    payload = serialize.dump_error(LookupError("no such row"), {"host": "node7"})
    assert job_usage.usage_of(payload) is None
    payload = job_usage.attach(payload)
    assert job_usage.usage_of(payload) == USED
    assert serialize.load_error(payload, "job 1").args == ("no such row",)


def test_what_is_no_usage_is_none():
    for payload in (
        b"",
        b".",
        b"\x80",
        b"?" * 20,
        b'{"limit": 1.5}',
        serialize.dump_plain((1,), {}, label=2**63 + 5),
    ):
        assert job_usage.usage_of(payload) is None


def test_amounts_beyond_the_field_are_the_most():
    most = job_usage.usage_of(b"\x80...." + job_usage._pack(job_usage.Usage(1e12, 2**60)))
    assert most.cpu_seconds == (2**34 - 1) / 1000 and most.peak_memory == (2**22 - 1) * MIB


@pytest.fixture
def spin():
    """A local function: this module, with numpy, is not imported for it."""

    def spin(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return spin


def test_a_job_is_measured_and_not_those_before_it(cluster, spin):
    def hold(mib):
        held = bytearray(os.urandom(MIB)) * mib
        time.sleep(0.02)
        return held[:1] * (mib // 40 * MIB)

    def start():
        code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
        subprocess.run([sys.executable, "-c", code], check=True)

    with cw.ClusterExecutor(cluster.master) as executor:
        futures = [executor.submit(spin, 0.3), executor.submit(hold, 200)]
        for future in futures:
            future.result(LIMIT)
        small = [executor.submit(time.sleep, 0.3) for _ in range(2)]  # on both slots
        started = executor.submit(start)
        assert started.result(LIMIT) is None
        assert 0.25 < futures[0].usage.cpu_seconds < 0.5 and futures[0].usage.peak_memory < 150 * MIB
        assert 200 * MIB < futures[1].usage.peak_memory < 350 * MIB  # with a large result
        assert all(each.usage.cpu_seconds < 0.2 and each.usage.peak_memory < 150 * MIB for each in small)
        assert 0.25 < started.usage.cpu_seconds < 1
        short = [executor.submit(jobs.square, number) for number in range(50)]
        assert [future.result(LIMIT) for future in short][:3] == [0, 1, 4]
        assert any(future.usage is None for future in short)


def test_a_store_has_it_for_each_call(cluster, tmp_path, spin):
    path = str(tmp_path / "s")
    with cw.ClusterExecutor(cluster.master, store=path) as executor:
        list(executor.map(spin, [0.05, 0.1, 0, 0.2], chunksize=4))
        executor.submit(time.sleep, -1).exception(LIMIT)
    found = cw.results(path)
    by_args = {result.args[0]: result.usage for result in found if not result.failed}
    for seconds in 0.05, 0.1, 0.2:
        assert seconds * 0.9 < by_args[seconds].cpu_seconds < seconds + 0.2
    assert by_args[0] is None or by_args[0].cpu_seconds < 0.05  # (on a busy machine it may last)
    csv = tmp_path / "csv"
    found.to_csv(csv)
    assert csv.read_text().splitlines()[0].endswith("seconds,host,cpu_seconds,peak_memory")
