"""Log records and warnings of jobs, from the job to the program's own handlers, with real processes."""

import logging
import multiprocessing
import subprocess
import sys
import threading
import warnings

import pytest
from conftest import wait_until
from programs import LIMIT

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor():
    with cw.ClusterExecutor() as executor:
        yield executor


log = logging.getLogger("simulation")


def of_jobs(caplog):
    return [record for record in caplog.records if hasattr(record, "cw_job")]


def texts(caplog):
    return [record.getMessage() for record in of_jobs(caplog)]


def simulate(step, level=logging.INFO):
    log.debug("step %d begins", step)
    log.log(level, "step %d", step)
    return log.isEnabledFor(logging.DEBUG), log.isEnabledFor(logging.INFO), len(logging.root.handlers)


def test_records_are_here_before_the_result_and_say_where_they_were_made(executor, caplog):
    caplog.set_level(logging.INFO)
    future = executor.submit(simulate, 7)
    assert future.result(LIMIT) == (False, True, 0)
    (record,) = of_jobs(caplog)
    assert (record.name, record.levelname, record.getMessage()) == ("simulation", "INFO", "step 7")
    assert (record.cw_function, record.cw_slot, record.module) == ("simulate", 0, "test_logging")
    assert record.processName == f"{record.cw_host}/0"


def test_the_levels_are_those_of_the_program_as_they_are_at_the_submit(executor, caplog):
    caplog.set_level(logging.DEBUG, "simulation")
    assert executor.submit(simulate, 1).result(LIMIT)[:2] == (True, True)
    caplog.set_level(logging.WARNING, "simulation")
    assert executor.submit(simulate, 2).result(LIMIT)[:2] == (False, False)
    assert executor.submit(simulate, 3, logging.ERROR).result(LIMIT)[:2] == (False, False)
    assert texts(caplog) == ["step 1 begins", "step 1", "step 3"]


def test_all_calls_of_a_map_are_heard_in_their_order(executor, caplog):
    caplog.set_level(logging.INFO)
    list(executor.map(simulate, range(50), chunksize=7))
    assert texts(caplog) == [f"step {number}" for number in range(50)]


def fail():
    try:
        raise ValueError("too hot")
    except ValueError:
        log.exception("failed", extra={"temperature": 451})


def test_a_traceback_arrives_as_text_and_extra_attributes_as_they_are(executor, caplog):
    executor.submit(fail).result(LIMIT)
    (record,) = of_jobs(caplog)
    assert record.temperature == 451 and "ValueError: too hot" in record.exc_text
    assert 'raise ValueError("too hot")' in caplog.text


def log_in_children():
    process = multiprocessing.get_context("fork").Process(target=log.warning, args=("from a child",))
    process.start()
    process.join()
    thread = threading.Thread(target=log.warning, args=("from a thread",), name="helper")
    thread.start()
    thread.join()


def test_threads_of_a_job_and_processes_that_it_forks_are_heard(executor, caplog):
    executor.submit(log_in_children).result(LIMIT)
    assert texts(caplog) == ["from a child", "from a thread"]
    assert [record.cw_function for record in of_jobs(caplog)] == ["log_in_children"] * 2
    assert of_jobs(caplog)[1].threadName == "helper"


def outer():
    with cw.ClusterExecutor() as executor:
        return executor.submit(simulate, 5).result(LIMIT)


def test_a_job_of_a_job_is_heard(executor, caplog):
    caplog.set_level(logging.INFO, "simulation")
    assert executor.submit(outer).result(LIMIT)[:2] == (False, True)
    assert [record.cw_function for record in of_jobs(caplog) if record.name == "simulation"] == ["simulate"]


def test_a_handler_that_blocks_holds_up_no_result(executor, caplog):
    go_on, waits, heard = threading.Event(), threading.Event(), []

    def handle(record):
        waits.set()
        assert go_on.wait(LIMIT)
        heard.append((record.getMessage(), threading.current_thread().name))

    handler = logging.Handler()
    handler.emit = handle
    log.addHandler(handler)
    try:
        for step in range(3):
            executor.submit(simulate, step, logging.WARNING).result(LIMIT)
        assert waits.is_set() and not heard
    finally:
        go_on.set()
        wait_until(lambda: len(heard) == 3)
        log.removeHandler(handler)
    assert heard == [(f"step {step}", "cw-output") for step in range(3)]


def configure(path):
    logging.basicConfig(filename=path, format="%(message)s", level=logging.INFO)


def test_what_an_initializer_sets_up_takes_the_place_of_the_programs_root_handlers(caplog, tmp_path):
    with cw.ClusterExecutor(initializer=configure, initargs=(tmp_path / "log",)) as executor:
        executor.submit(simulate, 1).result(LIMIT)
    assert texts(caplog) == [] and (tmp_path / "log").read_text() == "step 1\n"


def warn(text, category=UserWarning):
    warnings.warn(text, category, stacklevel=2)


def careful(text):
    warn(text)


def test_a_warning_is_issued_here_once_for_each_text_and_place(executor):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for text in ("hot", "hot", "cold"):
            executor.submit(careful, text).result(LIMIT)
        executor.restart()
        executor.submit(careful, "hot").result(LIMIT)
    assert [(str(each.message), each.filename) for each in seen] == [("hot", __file__), ("cold", __file__)]


def test_the_programs_filters_count_in_jobs(executor):
    with pytest.warns(UserWarning, match="too hot"):
        executor.submit(careful, "too hot").result(LIMIT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="too cold"):
            executor.submit(careful, "too cold").result(LIMIT)
        warnings.simplefilter("ignore")
        executor.submit(careful, "too cold").result(LIMIT)


class Own(UserWarning):
    pass


def test_a_filter_for_a_category_of_the_program_counts_too(executor):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Own)
        with pytest.raises(Own, match="mine"):
            executor.submit(warn, "mine", Own).result(LIMIT)


def test_a_callbacks_client_hears_its_jobs_too(caplog):
    caplog.set_level(logging.INFO, "simulation")
    heard = []
    with cw.ClientThread(lambda jobid, value: heard.append(texts(caplog))) as client:
        client.submit(99, simulate, 4)
    assert heard == [["step 4"]] and of_jobs(caplog)[0].cw_job == 99


def test_with_forwarding_off_jobs_keep_their_records(caplog, capsys):
    caplog.set_level(logging.INFO, "simulation")
    with cw.ClusterExecutor(forward_logging=False) as executor:
        assert executor.submit(simulate, 1, logging.WARNING).result(LIMIT)[:2] == (False, False)
    assert texts(caplog) == [] and "step 1\n" in capsys.readouterr().err
    with pytest.raises(TypeError, match="forward_logging must be True or False, not 'INFO'"):
        cw.ClusterExecutor(forward_logging="INFO")


def test_a_program_without_handlers_gets_warnings_on_its_stderr(cluster, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import logging, sys, warnings, cw\n"
        "def job():\n"
        "    logging.getLogger('x').warning('cold')\n"
        "    logging.getLogger('x').info('no')\n"
        "    warnings.warn('hot')\n"
        "if __name__ == '__main__':\n"
        "    with cw.ClusterExecutor(sys.argv[1]) as executor: executor.submit(job).result()\n"
    )
    command = [sys.executable, script, cluster.master]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert sorted(run.stderr.splitlines()) == sorted(
        ["  warnings.warn('hot')", "cold", f"{script}:5: UserWarning: hot"]
    )
