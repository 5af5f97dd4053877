"""What becomes of records and warnings in the process that runs jobs. Each test is a process of its own."""

import json
import subprocess
import sys

from cw.payloads.log_records import Record, load

PREPARED = """
import json, logging, os, sys, warnings
from cw.net import messages as m
from cw.payloads import current, log_settings
from cw.runner import logs
sent = []
logs.Forwarder(lambda line: sent.append(line.decode())).install()
current.slot, current.name_of = m.Slot(3, 1, -1.0), lambda number: "simulate"
def run(function):
    current.running = 1, 2, 0, 1, 17, bytes(8)
    try: function()
    finally: current.running = None
def home(**levels): log_settings.apply({"levels": {name.replace("root", ""): row for name, row in levels.items()}})
log = logging.getLogger("sim")
"""

ROOT = [10, True, False, 20]  # level DEBUG, a handler for INFO


def in_runner(text):
    """Return what was sent, and stderr."""
    code = PREPARED + text + "\nprint(json.dumps(sent))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return [load(line.encode()) for line in json.loads(run.stdout.splitlines()[-1])], run.stderr


def texts(sent):
    return [each.attributes["msg"] if type(each) is Record else each.text for each in sent]


def test_records_that_handlers_at_home_take_are_sent():
    sent, stderr = in_runner(f"""
home(root={ROOT})
def job():
    assert not log.hasHandlers() and log.isEnabledFor(10)
    log.debug("below the handlers"), log.info("step %d", 1), logging.warning("of the root")
run(job)
""")
    assert texts(sent) == ["step 1", "of the root"] and stderr == ""
    attributes = sent[0].attributes
    assert {key: attributes[key] for key in ("name", "cw_job", "cw_function", "cw_slot", "funcName")} == {
        "name": "sim", "cw_job": 17, "cw_function": "simulate", "cw_slot": 3, "funcName": "job",
    }  # fmt: skip


def test_without_handlers_at_home_warnings_are_printed_and_nothing_is_sent():
    sent, stderr = in_runner("""
run(lambda: [log.info("no"), log.warning("hot")])
home(other=[0, True, False, 0])
run(lambda: log.warning("cold"))
""")
    assert sent == [] and stderr == "hot\ncold\n"


def test_a_job_that_configures_logging_itself_shows_its_records_itself():
    sent, stderr = in_runner(f"""
home(root={ROOT})
def job():
    logging.basicConfig(format="%(levelname)s! %(message)s", level=logging.DEBUG)
    log.debug("of my own")
run(job)
run(lambda: log.info("again"))
""")
    assert sent == [] and stderr == "DEBUG! of my own\nINFO! again\n"


def test_a_jobs_own_file_gets_its_records_and_so_do_the_handlers_of_other_loggers_at_home(tmp_path):
    sent, stderr = in_runner(f"""
home(root={ROOT}, sim=[0, True, False, 0])
log.addHandler(logging.FileHandler({str(tmp_path / "own.log")!r}))
run(lambda: logging.getLogger("sim.part").info("both"))
log.propagate = False
run(lambda: log.info("only the file"))
""")
    assert (tmp_path / "own.log").read_text() == "both\nonly the file\n"
    assert [(each.attributes["msg"], each.taken) for each in sent] == [("both", ["sim"])] and stderr == ""


def test_filters_of_a_job_act_and_a_null_handler_is_none():
    sent, stderr = in_runner(f"""
home(root={ROOT})
log.addHandler(logging.NullHandler())
log.addFilter(lambda record: "secret" not in record.getMessage())
run(lambda: [log.info("secret"), log.info("open")])
""")
    assert texts(sent) == ["open"] and sent[0].taken == [] and stderr == ""


def test_what_comes_outside_of_jobs_is_printed():
    sent, stderr = in_runner(f"home(root={ROOT})\nlog.info('before')\nwarnings.warn('outside')")
    assert sent == []
    assert stderr.startswith("INFO:sim:before\n") and "UserWarning: outside" in stderr


def test_processes_that_a_job_forks_send_what_they_can_write_at_once():
    sent, stderr = in_runner(f"""
home(root={ROOT})
sent = [[]]
ends = os.pipe()
logs.Forwarder(lambda line: os.write(ends[1], line + b'\\n')).install()
def job():
    log.info("parent")
    if not (pid := os.fork()):
        log.info("child")
        log.info("long " * 5000)
        warnings.warn("child warns")
        os._exit(0)
    os.waitpid(pid, 0)
run(job)
sent = os.read(ends[0], 65536).decode().splitlines()
""")
    assert texts(sent) == ["parent", "child", "child warns"]
    assert stderr.startswith("INFO:sim:long long ") and sent[1].attributes["cw_job"] == 17


def test_a_record_whose_text_cannot_be_made_is_reported_as_by_any_handler():
    sent, stderr = in_runner(f"home(root={ROOT})\nrun(lambda: log.info('%d', 'x'))")
    assert sent == [] and "--- Logging error ---" in stderr and "TypeError: %d format" in stderr


def test_warnings_are_sent_with_the_module_that_they_are_about():
    sent, stderr = in_runner("""
def careful(): warnings.warn("hot", stacklevel=2)
def job():
    for _ in range(3): careful()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        careful()
    assert len(seen) == 1
    warnings.warn_explicit("far", RuntimeWarning, "lib.py", 7)
run(job)
warnings.warn("outside")
""")
    assert [(each.text, each.categories, each.file, each.module) for each in sent] == [
        ("hot", ["builtins:UserWarning"], "<string>", "__main__"),
        ("far", ["builtins:RuntimeWarning"], "lib.py", ""),
    ]
    assert "UserWarning: outside" in stderr


def test_with_forwarding_off_all_is_as_without_it():
    sent, stderr = in_runner(f"""
home(root={ROOT})
log_settings.apply({{"is_forwarding": False}})
run(lambda: [log.info("no"), log.warning("hot"), warnings.warn("warned")])
""")
    assert sent == [] and stderr.startswith("hot\n") and "UserWarning: warned" in stderr
