"""cw in a notebook: a real kernel runs the cells. It needs the extra `notebook` of the tests."""

import contextlib
import os
import re
import signal
import threading

import pytest
from conftest import wait_until
from programs import LIMIT, ROOT

nbformat = pytest.importorskip("nbformat")
jupyter_client = pytest.importorskip("jupyter_client")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")


class Notebook:
    """A kernel and the cells that it has run."""

    def __init__(self, directory):
        self.directory = directory
        self._cells = nbformat.v4.new_notebook()
        resources = {"metadata": {"path": str(directory)}}
        self._client = nbclient.NotebookClient(
            self._cells, timeout=LIMIT, allow_errors=True, resources=resources
        )
        self._kernel = self._client.setup_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)})

    def __enter__(self):
        self._kernel.__enter__()
        self.run("import asyncio, os, time, cw")
        return self

    def __exit__(self, *error):
        self._kernel.__exit__(*error)

    def run(self, code, interrupt_at=None):
        """Run a cell, and return its outputs. It is interrupted when the file `interrupt_at` exists."""
        self._cells.cells.append(nbformat.v4.new_code_cell(code))
        is_over = threading.Event()
        if interrupt_at is not None:
            threading.Thread(target=self._interrupt, args=(interrupt_at, is_over)).start()
        try:
            return Outputs(
                self._client.execute_cell(self._cells.cells[-1], len(self._cells.cells) - 1).outputs
            )
        finally:
            is_over.set()

    def _interrupt(self, path, is_over):
        wait_until(lambda: (self.directory / path).exists() or is_over.is_set(), LIMIT)
        while not is_over.is_set():
            os.kill(self._client.km.provisioner.pid, signal.SIGINT)
            is_over.wait(4)  # Python may miss one that comes just before a wait: then the user does it again

    @contextlib.contextmanager
    def messages(self):
        """Another client of the kernel, which sees all that appears, also under earlier cells."""
        client = jupyter_client.BlockingKernelClient(connection_file=self._client.km.connection_file)
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT)
        try:
            yield client
        finally:
            client.stop_channels()

    def widget(self, model_id):
        """The state of a widget as the page has it."""
        return self._client.widget_state[model_id]


class Outputs:
    def __init__(self, outputs):
        self.error = None
        self.data = {}
        streams = {"stdout": "", "stderr": ""}
        for output in outputs:
            if output.output_type == "stream":
                streams[output.name] += output.text
            elif output.output_type == "error":
                self.error = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback)).rstrip()
            else:
                self.data |= output.data
        self.out, self.err = streams["stdout"], streams["stderr"]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    with Notebook(tmp_path_factory.mktemp("notebook")) as notebook:
        notebook.run("""
            allocation = cw.mp.allocate(2)
            cluster = allocation.__enter__()
            executor = cw.ClusterExecutor()
            def bad(x):
                return 1 / x
            def stay(name):
                open(name, "w").close()
                time.sleep(60)
                open(f"{name} ended", "w").close()
        """)  # fmt: skip
        yield notebook
        notebook.run("executor.shutdown(); allocation.__exit__(None, None, None)")


@pytest.mark.parametrize(
    "call",
    [
        "executor.submit(bad, 0).result()",
        "await executor.submit(bad, 0)",
        "list(executor.map(bad, [1, 0]))",
        "list(executor.map(bad, [1, 0], chunksize=2))",
        "list(cw.map(bad, [1, 0], as_completed=True))",
        "async for _ in executor.amap(bad, [1, 0]): pass",
    ],
)
def test_an_error_shows_the_lines_of_cells_and_none_of_cw(notebook, call):
    error = notebook.run(call).error
    assert f"----> 1 {call}" in error
    assert re.search(
        r"job \d+.* \(host .*\n  Cell In\[\d+\], line 5, in bad\n    return 1 / x\n\nZero", error
    ), error
    assert error.endswith("\n\nZeroDivisionError: division by zero")
    assert len(error.splitlines()) <= 15 and str(ROOT / "cw") not in error and "/tmp/ipykernel" not in error


def test_errors_of_cw_and_of_an_input_show_the_users_lines_only(notebook):
    error = notebook.run("executor.submit(print, (n for n in range(3)))").error
    assert "----> 1 executor.submit" in error and "cannot pickle 'generator' object" in error
    assert len(error.splitlines()) <= 15 and str(ROOT / "cw") not in error and "cloudpickle" not in error
    error = notebook.run("""
        def numbers():
            yield 1
            raise LookupError("no more")
        list(executor.map(abs, numbers()))
    """).error  # fmt: skip
    assert "----> 3     raise LookupError" in error.replace("        raise", "    raise"), error
    assert str(ROOT / "cw") not in error
    error = notebook.run("1 / 0").error  # the user's own: as ever
    assert "----> 1 1 / 0" in error and error.endswith("ZeroDivisionError: division by zero")


def test_the_exception_itself_is_as_everywhere(notebook):
    out = notebook.run("""
        try:
            executor.submit(bad, 0).result()
        except ZeroDivisionError as error:
            print(type(error.__cause__).__name__, error.__traceback__.tb_next is not None, vars(error))
    """).out  # fmt: skip
    assert out == "RemoteTraceback True {}\n"
    notebook.run("executor.submit(bad, 0).result()")  # it was shown, and is as before
    assert (
        notebook.run("import sys; print(type(sys.last_value.__cause__).__name__)").out == "RemoteTraceback\n"
    )


@pytest.mark.parametrize(
    "cell",
    [
        "executor.submit(stay, '{0}').result()",
        "list(executor.map(stay, ['{0}', '{0} 2', '{0} 3', '{0} 4']))",
        "futures = [executor.submit(stay, f'{0}{{n or str()}}') for n in range(9)]\ntime.sleep(60)",
        "await executor.submit(stay, '{0}')",
        "executor.submit(stay, '{0}'); await asyncio.sleep(60)",
        "async for _ in executor.amap(stay, ['{0}', '{0} 2', '{0} 3']): pass",
        "for _ in cw.map(stay, ['{0}', '{0} 2', '{0} 3']): pass",
    ],
)
def test_an_interrupted_cell_takes_its_jobs_along(notebook, cell, request):
    name = f"stay{abs(hash(request.node.name))}"
    error = notebook.run(cell.format(name), interrupt_at=name).error
    assert "KeyboardInterrupt" in error or "CancelledError" in error
    assert str(ROOT / "cw") not in error and len(error.splitlines()) <= 25
    # Both slots are free: two jobs meet.
    meeting = """
        def meet(own, other):
            open(own, "w").close()
            while not os.path.exists(other): time.sleep(0.01)
            return "met"
        print(list(executor.map(meet, ["{0}a", "{0}b"], ["{0}b", "{0}a"])))
    """  # fmt: skip
    assert notebook.run(meeting.format(name)).out == "['met', 'met']\n"
    assert not list(notebook.directory.glob(f"{name}*ended"))


def test_jobs_of_earlier_cells_go_on(notebook):
    notebook.run("""
        def wait_for(path):
            while not os.path.exists(path): time.sleep(0.01)
            return "went on"
        earlier = executor.submit(wait_for, "go")
    """)  # fmt: skip
    notebook.run("executor.submit(stay, 'later').result()", interrupt_at="later")
    assert notebook.run("open('go', 'w').close(); print(earlier.result())").out == "went on\n"


def test_what_jobs_print_appears_under_the_cell_that_has_submitted_them(notebook):
    begin = """
        def speak(path):
            print("hello", flush=True)
            while not os.path.exists(path): time.sleep(0.01)
            print("goodbye")
            print("hot", file=sys.stderr)
        import sys
        speaking = executor.submit(speak, "spoken")
        executor.submit(time.sleep, 0.5).result()
    """
    with notebook.messages() as messages:
        shown = notebook.run(begin)
        assert re.fullmatch(r"\[speak #\d+ \S+\] hello\n", shown.out)
        later = notebook.run("open('spoken', 'w').close(); speaking.result(); print('later')")
        assert later.out == "later\n" and later.err == ""
        assert notebook.run("print('last')").out == "last\n"
        cells, texts = {}, []
        while "last" not in str(texts[-1:]):
            message = messages.get_iopub_msg(timeout=LIMIT)
            if message["msg_type"] == "execute_input":
                cells[message["parent_header"]["msg_id"]] = message["content"]["code"]
            if message["msg_type"] == "stream":
                cell = cells.get(message["parent_header"]["msg_id"], "")
                texts.append((cell == begin, message["content"]["text"].rpartition("] ")[2]))
    assert texts[0] == (True, "hello\n")
    assert sorted(texts[1:3]) == [(True, "goodbye\n"), (True, "hot\n")]  # of two streams, so in any order
    assert texts[3:] == [(False, "later\n"), (False, "last\n")]


def test_the_bar_is_a_widget_and_comes_to_its_end(notebook):
    shown = notebook.run("""
        def nap(n):
            time.sleep(0.05)
        for _ in cw.map(nap, range(6), progress=True, store="s"): print("a line")
    """)  # fmt: skip
    assert not shown.error and shown.err == "" and shown.out == "a line\n" * 6
    shown = notebook.run('for _ in cw.map(nap, range(9), progress=True, store="s"): pass')
    assert not shown.error and shown.err == ""
    texts = [
        state["value"] for state in notebook._client.widget_state.values() if "9/9" in str(state.get("value"))
    ]
    assert len(texts) == 1 and "stored=6" in texts[0], texts


def test_without_ipywidgets_the_bar_is_a_text_and_nothing_warns(notebook):
    shown = notebook.run("""
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "ipywidgets" else find_spec(name, *more)
        try:
            for _ in cw.map(abs, range(4), progress=True): pass
        finally:
            importlib.util.find_spec = find_spec
    """)  # fmt: skip
    assert not shown.error and "4/4" in shown.err and "Warning" not in shown.err and not shown.data


def test_what_a_cell_ends_with_is_a_table(notebook):
    assert "<td>2 of 2, of 1 worker</td>" in notebook.run("cluster").data["text/html"]
    assert "<th>slots</th><td>2</td>" in notebook.run("executor").data["text/html"]
    shown = notebook.run("future = executor.submit(eval, repr('<b>')); future.result(); future").data
    assert "<td>done</td>" in shown["text/html"] and "&lt;b&gt;" in shown["text/html"]
    assert (
        "<td>failed</td>" in notebook.run("f = executor.submit(bad, 0); f.exception(); f").data["text/html"]
    )
    shown = notebook.run("list(cw.map(abs, [-1, 2], store='t')); cw.results('t')").data
    assert "<td>abs</td><td>2</td><td>0</td>" in shown["text/html"]
