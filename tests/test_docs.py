"""What README and docs/ say is so: every snippet and every command is run, every link leads somewhere."""

import inspect
import re
import subprocess
import sys
import venv
from pathlib import Path

import pages
import pytest
import sandbox
from pages import PAGES, ROOT

import cw

README, DOCS = ROOT / "README.md", ROOT / "docs"
COMMAND, MACHINES, SLURM = (DOCS / f"{name}.md" for name in ("command", "machines", "slurm"))

# A line for another place, and a program for another machine: test_readme.py puts them there. Machines: test_ssh.py has
# some.
ELSEWHERE = ['ClusterExecutor(host="node7")', "master.local", "cw.ssh.allocate("]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pages.cluster(tmp_path_factory.mktemp("home")) as home:
        yield home


def snippets_that_run(page):
    if page.stem == "works-with":  # programs for many libraries: test_works_with.py runs them
        return []
    return [
        snippet for snippet in pages.snippets(page) if not any(text in snippet.text for text in ELSEWHERE)
    ]


def blocks_with(page, text):
    (block,) = (block for block in pages.snippets(page, "sh") if text in block.text)
    return block.text.splitlines()


# --- snippets ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets_that_run(page)], ids=lambda page: page.stem
)
def test_the_snippets_of_a_page_run_in_order_and_print_what_they_say(page, home, tmp_path):
    found = snippets_that_run(page)
    (tmp_path / page.name).write_text(pages.program(found))
    printed = pages.printed_by_line(pages.run([sys.executable, page.name], tmp_path, CW_HOME=home))
    promised = {snippet.line: snippet.promised for snippet in found}
    assert {line: printed[line] for line, text in promised.items() if text} == {
        line: text for line, text in promised.items() if text
    }
    assert printed.keys() == promised.keys()


# --- commands ---------------------------------------------------------------------------------


def test_the_local_cluster_of_the_shell(tmp_path):
    start, status, stop = blocks_with(MACHINES, "cw.mp")
    (tmp_path / "used.py").write_text(
        "import cw\nwith cw.ClusterExecutor() as e: print(e.submit(pow, 2, 10).result())"
    )
    script = f"set -e\n{start}\n{status}\npython used.py\n{stop}\n"
    printed = pages.run(["bash", "-c", script], tmp_path)
    assert "slots: 2\n" in printed and printed.endswith("\n1024\n")


def test_the_command_cw_shows_the_cluster_that_programs_find(home, tmp_path):
    alone, status = (
        pages.run(["bash", "-c", line], tmp_path, CW_HOME=home) for line in pages.commands(COMMAND)
    )
    assert "Your cluster: its master answers" in alone and status.startswith("master: ")
    described = re.findall(r"^\| `cw (\w+)` ", pages.read(COMMAND), re.MULTILINE)
    assert set(described) == set(re.findall(r"^  cw (\w+)", alone, re.MULTILINE))


def test_the_commands_about_the_credential(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_CREDENTIAL", str(tmp_path / "credential.pem"))
    pages.run([sys.executable, "-c", "from cw import credential; credential.load_or_make()"], tmp_path)
    shown, copy, made = (
        pages.run(["bash", "-c", line], tmp_path) for line in blocks_with(DOCS / "security.md", "--new")
    )
    assert "credential.pem" in shown and "SHA-256" in shown
    assert copy.startswith("ssh node8 ")
    assert made.splitlines()[1] not in shown


def test_the_commands_that_show_a_store(home, tmp_path):
    page = DOCS / "results.md"
    (tmp_path / "script.py").write_text(pages.snippet_with(page, "failing.cw").text)
    pages.run([sys.executable, "script.py"], tmp_path, CW_HOME=home)
    summary, failed, table, tidied, verified = (
        pages.run(["bash", "-c", line], tmp_path)
        for line in [*blocks_with(page, "--list"), *blocks_with(page, "--tidy")]
    )
    assert re.search(r"^simulate +2 +1 +", summary, re.MULTILINE)
    assert "simulate(0) -> ZeroDivisionError: division by zero\n" in failed and failed.count("\n") == 1
    assert "nothing to merge" in tidied and "nothing is damaged" in verified
    assert table == "" and (tmp_path / "failing.csv").read_text().count("\n") == 4


def test_the_command_that_lists_the_modules(tmp_path):
    (command,) = pages.commands(DOCS / "architecture.md")
    assert '"""The version of cw' in pages.run(["bash", "-c", f"cd {ROOT} && {command}"], tmp_path)


def test_ci_and_the_hooks_run_what_contributing_says_to_run_before_a_commit():
    checks = [line for line in pages.commands(ROOT / "CONTRIBUTING.md") if re.match("ruff|mypy", line)]
    ci, hooks = (pages.read(ROOT / name) for name in (".ci/run", ".pre-commit-config.yaml"))
    assert len(checks) == 3
    for check in checks:
        program = check.removesuffix(" .")
        assert f".venv/bin/{program}" in ci and f"entry: {program}" in hooks


def test_the_commands_that_run_some_tests_find_them():
    lines = [line for line in pages.commands(ROOT / "CONTRIBUTING.md") if re.match("pytest .*tests/", line)]
    assert len(lines) == 3
    code = (
        "import shlex, sys, pytest\n"
        "for line in sys.argv[1:]:\n"
        "    assert not pytest.main([*shlex.split(line)[1:], '--collect-only', '-p', 'no:cacheprovider'])\n"
    )
    pages.run([sys.executable, "-c", code, *lines], ROOT)


@pytest.mark.slow
def test_the_commands_about_slurm(tmp_path):
    if not sandbox.is_installed():
        pytest.skip(sandbox.HOW_TO_GET_IT)
    with sandbox.Sandbox(nodes=4, cpus=16) as slurm:
        start, status, scale, stop, *elastic = (
            pages.run(
                ["bash", "-c", line], tmp_path, SLURM_CONF=str(slurm.conf), CW_HOME=str(tmp_path / "home")
            )
            for line in [*blocks_with(SLURM, "start -n 32"), *blocks_with(SLURM, "--max 512")]
        )
    assert "32 of 32 slots are up" in start and "slots connected: 32\n" in status
    assert "16 more slots" in scale and stop.startswith("stopped")
    start, scale, resume, stop = elastic
    assert "elastic: 0 to 512 slots" in start and "2 to 64 slots" in scale
    assert resume == "nothing is paused\n" and stop.startswith("stopped")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_site_is_built_without_a_warning(tmp_path):
    """With the extra that CONTRIBUTING names, in an environment of its own; nothing in it comes from elsewhere."""
    pages.copy_clone(tmp_path / "cw")
    install, build = blocks_with(ROOT / "CONTRIBUTING.md", "mkdocs")
    venv.create(tmp_path / "venv", with_pip=True)
    environment = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "PYTHONPATH": ""}
    for line in (install, build):
        subprocess.run(["bash", "-c", line], cwd=tmp_path / "cw", env=environment, check=True, timeout=380)
    for page in (tmp_path / "cw" / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]* (?:src|href)=\"?(https?:[^\s\">]+)", page.read_text())
        assert not loaded, page


TESTED = {
    "README.md": ["stdlib_sweep", "pytest", "pip install"],  # test_readme.py
    "command.md": ["cw"],
    "machines.md": ["cw.mp", "cw.master", "cw.worker"],
    "security.md": ["cw.credential"],
    "results.md": ["cw.results"],
    "output.md": ["cw.results"],
    "report.md": ["cw report", "pip install"],  # test_report.py
    "lab-machines.md": ["cw ssh"],  # test_ssh.py
    "slurm.md": ["cw.slurm", "docker run"],  # test_slurm_containers.py
    "top.md": ["cw top", "pip install"],  # test_top.py, test_web.py
    "architecture.md": ["head "],
    "CONTRIBUTING.md": [
        "venv",
        "ruff",
        "mypy",
        "pytest",
        "benchmarks",
        "chaos",
        "mkdocs",
        "pip install",
        "pre-commit",
        "pictures",
    ],
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_tested(page):
    """A new command needs a test, and a word of it in TESTED."""
    words = TESTED.get(page.name, [])
    assert [line for line in pages.commands(page) if not any(word in line for word in words)] == []


# --- tables and signatures --------------------------------------------------------------------


@pytest.mark.parametrize("module", ["master", "worker"])
def test_the_table_of_options_is_that_of_the_program(module, tmp_path):
    text = pages.run([sys.executable, "-m", f"cw.{module}", "--help"], tmp_path).replace("python -m", "")
    table = re.search(
        rf"^\| `python -m cw\.{module}` \| \|\n((?:\|.*\n)+)", pages.read(MACHINES), re.MULTILINE
    )[1]
    described = set(re.findall(r"^\| `(-+[\w-]+)", table, re.MULTILINE))
    assert described | {"-h", "--help", "--version", "-v", "--verbose"} == set(
        re.findall(r"(?<!\w)--?[a-z][\w-]*", text)
    )


def test_the_options_of_slurm_are_known_to_the_program(tmp_path):
    text = pages.run([sys.executable, "-m", "cw.slurm", "--help"], tmp_path)
    table = re.search(
        r"^\| `python -m cw\.slurm start` \| \|\n((?:\|.*\n)+)", pages.read(SLURM), re.MULTILINE
    )[1]
    described = "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", described))
    assert named <= set(re.findall(r"(?<!\w)--?[A-Za-z][\w-]*", text)) and "--renew" in named


@pytest.mark.parametrize(
    ("page", "name"), [("callbacks.md", "ClientThread"), ("executor.md", "ClusterExecutor")]
)
def test_the_signature_is_that_of_the_class(page, name):
    (written,) = re.findall(rf"^`{name}(\(.+\))`", pages.read(DOCS / page), re.MULTILINE)
    signature = inspect.signature(getattr(cw, name))
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    assert written == str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_the_options_of_jobs_are_those_of_options():
    described = set(
        re.findall(r"`(\w+)=", "".join(re.findall(r"^\| (.*?) \|", pages.read(DOCS / "options.md"), re.M)))
    )
    assert described == {
        *inspect.signature(cw.ClusterExecutor.options).parameters,
        *inspect.signature(cw.ClientThread.options).parameters,
    } - {"self"}


def test_the_attributes_of_a_job_are_those_of_current_job():
    table = pages.read(DOCS / "options.md").partition("| attribute | |")[2]
    described = re.findall(r"`(\w+)(?:\(\))?`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    assert set(described) == {*cw.CurrentJob.__annotations__, "time_left"} - {"_ends"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_public_names_of_a_page_are_there(page):
    for name in re.findall(r"`cw\.([A-Z]\w+)`", pages.read(page)):
        assert hasattr(cw, name), name


def test_the_exceptions_are_all_described():
    described = set(re.findall(r"`cw\.([A-Z]\w+)`", pages.read(DOCS / "errors.md")))
    public = {
        name
        for name in cw.__all__
        if inspect.isclass(value := getattr(cw, name)) and issubclass(value, Exception)
    }
    assert public - described <= {"ProtocolError", "RemoteTraceback"}


# --- links and paths --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in pages.anchors(linked), target


def test_every_page_is_in_the_contents_of_the_site_and_reached_from_the_readme():
    contents = (ROOT / "mkdocs.yml").read_text()
    reached = {Path(target.partition("#")[0]).name for target in pages.links(README)}
    names = {page.name for page in DOCS.glob("*.md")}
    assert {name for name in names if f": {name}\n" not in contents} == set()
    assert names - reached == set()


@pytest.mark.parametrize(
    "page", [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_the_paths_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:cw|tests|docs|benchmarks|examples|\.ci)/[^`\s]*)`", pages.read(page)))
    assert named and [path for path in sorted(named) if not list(ROOT.glob(path.rstrip("/")))] == []
