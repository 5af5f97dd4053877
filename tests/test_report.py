"""`cw report`, and `report=`: the page as a parser and a user see it."""

import datetime
import html.parser
import os
import re
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pages
import pytest
from conftest import events
from pickles import dump_call
from programs import ROOT
from test_store import written

import cw
from cw import program
from cw.cli import report as command
from cw.errors import StoreError
from cw.payloads import serialize
from cw.report import of_store, reader
from cw.report.reader import Choice
from cw.store.format import Entry
from cw.store.stream import Stream

START = 1_790_000_000.0
EVIL = "<script>alert('it ran')</script>"
ALLOWED = set(
    "html head meta title style body main header section footer h1 h2 small p div span strong b i svg defs g path text "
    "tspan use clippath rect figure figcaption code pre br table thead tbody tr th td ol li".split()
)


def stored(number, end, seconds, *, function="simulate", host="node1", args=(), error=None, job=None):
    payload = serialize.dump_result(number) if error is None else serialize.dump_error(error, {"host": host})
    key = number.to_bytes(16, "little")
    return Entry(
        key, job or number, function, host, int(error is not None), START + end, seconds, dump_call(args, {}), payload,
        False, [],
    )  # fmt: skip


class Page(html.parser.HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.texts.append(data)

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")


def assert_harmless(page):
    assert {tag.lstrip("/") for tag in page.tags} <= ALLOWED
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("href", "src", "action", "data") and (
            name != "xlink:href" or value.startswith("#")
        ), (tag, value)
        assert name != "style" or "url(" not in value.replace("url(#", "")


@pytest.fixture
def path(tmp_path):
    return written(
        tmp_path / "sweep.cw",
        stored(1, 2, 2.0, args=(0.25,)),
        stored(2, 3, 1.0, host="node2", args=(EVIL, [1, 2])),
        stored(3, 7, 4.0, host="node2", error=ValueError("no <b>such</b> star\nnowhere\nat all"), args=(3,)),
        stored(4, 8, 0.5, function="$a$" + EVIL, host=EVIL),
        stored(5, 8.5, 0.5, error=KeyError("first")),
        stored(5, 9.5, 0.25, args=(5,)),
    )


def test_the_page_says_what_was_run_and_what_failed(path):
    page = Page(of_store.page_of(path, Choice()))
    assert "sweep.cw" in page.text
    # Six results of five calls: one failed and was done later.
    assert "calls done 4" in page.text and "calls failed 1 1 more failed, and were done later" in page.text
    assert "spent in calls 8.2 s" in page.text and "longest 4 s" in page.text
    assert "simulate (3) 4 s , job 3 on node2" in page.text.replace("simulate(3)", "simulate (3)")
    assert "ValueError: no <b>such</b> star … at all" in page.text
    for heading in (
        "Throughput",
        "Busy slots",
        "Timeline",
        "Durations",
        "Functions",
        "Hosts",
        "Failed calls",
        "Slowest calls",
    ):
        assert heading in page.text


def test_what_users_write_is_text_and_nothing_else(path):
    text = of_store.page_of(path, Choice())
    page = Page(text)
    assert_harmless(page)
    assert page.text.count(EVIL) >= 3  # the argument, the function's name, the host: legible
    assert "<script" not in text.lower()
    assert "default-src 'none'" in text


def test_a_name_with_control_characters_or_dollars_does_not_break_the_drawing(tmp_path):
    hosts = ["\x00\x1b[31m", "\u202egnp.exe", "$x_{1}$", "-->", "星" * 40]
    path = written(
        tmp_path / "s", *(stored(n, n, 1.0, host=host, function=host) for n, host in enumerate(hosts, 1))
    )
    text = of_store.page_of(path, Choice())
    assert_harmless(Page(text))
    assert "\x00" not in text and "\x1b" not in text and "\u202e" not in text and "$x_{1}$" in text
    for picture in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(picture.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def test_without_arguments_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "mark"),)

    path = written(
        tmp_path / "s", stored(1, 1, 1.0, args=(Trap(),)), stored(2, 2, 1.0, error=LookupError("gone"))
    )
    page = Page(of_store.page_of(path, Choice(is_described=False)))
    assert not (tmp_path / "mark").exists() and "gone" not in page.text
    assert "mark" not in page.text and "simulate" in page.text
    Page(of_store.page_of(path, Choice()))
    assert (tmp_path / "mark").exists()  # (so it would have been noticed)


def test_what_cannot_be_loaded_says_why(tmp_path):
    broken = stored(1, 1, 1.0)._replace(args=b"no pickle")
    page = Page(of_store.page_of(written(tmp_path / "s", broken), Choice()))
    assert "Error" in page.text


def test_a_choice_of_function_and_time(path):
    def calls(**choice):
        return reader.read(path, Choice(**choice))[1].totals.durations.count

    at = datetime.datetime.fromtimestamp(START + 7.5).astimezone()
    assert calls() == 6 and calls(function="simulate") == 5
    assert calls(since=at) == 3 and calls(until=at) == 3
    with pytest.raises(StoreError, match="has no such results"):
        of_store.page_of(path, Choice(function="nope"))


def test_results_of_several_programs_are_read_in_the_order_of_time(tmp_path):
    now = time.time()
    for first in (1, 3):
        entries = [stored(n, 0, 1.0)._replace(when=now + 10 + n * 5) for n in (first, first + 3)]
        written(tmp_path / "s", *entries)
    store = Stream(tmp_path / "s", is_writing=False)
    assert [found.stored.number for found in store] == [1, 3, 4, 6]


@pytest.mark.slow
def test_a_large_store_gives_a_small_file(tmp_path):
    path = written(
        tmp_path / "s",
        *(
            stored(n, n / 40 + n % 7 / 10, 5.0 + n % 11, host=f"node{n % 100}", function=f"f{n % 60}")
            for n in range(1, 5000)
        ),
    )
    text = of_store.page_of(path, Choice())
    assert len(text) < 1_500_000
    assert re.search(r"48 of \d+ rows are drawn", text) and "50 of 100 hosts" in text


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Run `cw report` in a directory of its own; a mistake is what it prints in one line."""
    monkeypatch.chdir(tmp_path)

    def report(*arguments):
        monkeypatch.setattr(sys, "argv", ["cw report", *map(str, arguments)])
        return command.main()

    return report


def test_a_mistake_is_one_line_that_says_what_is_wrong(path, tmp_path, report, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    written(tmp_path / "empty.cw")
    for arguments, said in (
        (["none.cw"], "there is no store"),
        (["other"], "no store"),
        (["empty.cw"], "has no results: there is nothing to report"),
        ([path, "--function", "nope"], "has no such results: there is nothing to report"),
    ):
        with pytest.raises(program.UserError, match=said) as raised:
            report(*arguments)
        assert "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(program.UserError, match="pip install matplotlib"):
        report(path)


@pytest.mark.slow
def test_the_command_writes_the_file(path, tmp_path, report, capsys):
    with pytest.raises(
        program.UserError, match=r"nowhere/run.html cannot be written: No such file or directory"
    ):
        report(path, "-o", "nowhere/run.html")
    line = "import sys; sys.argv[0] = 'cw'; from cw.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", line, "report", path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("sweep.html (")
    assert (tmp_path / "sweep.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    lines = [shlex.split(line, comments=True) for line in pages.commands(ROOT / "docs" / "report.md")]
    assert [report(*arguments) for name, _, *arguments in lines if name == "cw"] == [0, 0, 0]
    assert "run.html (" in capsys.readouterr().out


# --- report= -----------------------------------------------------------------------------------


def work(x):
    time.sleep(0.01)
    if x == 3:
        raise ValueError(f"{EVIL} is no star\n\nat all")
    return x


@pytest.mark.slow
def test_an_executor_reports_what_it_ran_with_and_without_a_store(tmp_path, caplog):
    with cw.mp.allocate(2) as cluster:
        with cw.ClusterExecutor(cluster.master, report=tmp_path / "run.html") as executor:
            futures = [executor.submit(work, x) for x in range(6)]
            assert sum(future.exception() is not None for future in futures) == 1
            assert list(executor.map(abs, range(40), chunksize=10)) == list(range(40))
            assert not (tmp_path / "run.html").exists()
        page = Page((tmp_path / "run.html").read_text(encoding="utf-8"))
        assert_harmless(page)
        assert "calls done 45" in page.text and "calls failed 1" in page.text
        assert f"ValueError: {EVIL} is no star … at all" in page.text and "in work" in page.text
        assert re.search(r"abs 40 0 ", page.text) and re.search(r"work 6 1 ", page.text)
        assert os.uname().nodename in page.text

        def found(items):
            calls = cw.map(
                work, items, host=cluster.master, store=tmp_path / "s", report=tmp_path / "map.html",
                return_exceptions=True,
            )  # fmt: skip
            return len(list(calls))

        assert found([]) == 0 and not (tmp_path / "map.html").exists()
        assert found(range(7)) == 7
        page = Page((tmp_path / "map.html").read_text(encoding="utf-8"))
        assert "calls done 6" in page.text and "calls failed 1" in page.text
    assert "client.report_empty" in events(caplog)


def test_a_report_that_could_not_be_written_is_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        cw.ClusterExecutor("localhost:1", report=tmp_path / "nowhere" / "run.html")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        cw.ClusterExecutor("localhost:1", report=tmp_path / "run.html")
