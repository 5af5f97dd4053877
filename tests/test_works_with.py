"""The programs of docs/works-with.md, each with its real library. With RECIPES=all none of these may be missing."""

import re
import sys
from pathlib import Path

import pages
import pytest
from conftest import import_recipe

PAGE = pages.ROOT / "docs" / "works-with.md"
TITLES = re.findall(r"^## (.*)$", pages.read(PAGE), re.MULTILINE)
PROGRAMS = dict(zip(TITLES, pages.snippets(PAGE), strict=True))
IMPORTS = {
    title: set(re.findall(r"^(?:import|from) (\w+)", snippet.text, re.MULTILINE)) - {"cw"}
    for title, snippet in PROGRAMS.items()
}

# It counts the jobs of the program, in the program itself.
COUNTER = """\
import atexit, os
from cw.client.session.jobs import Jobs
count, on_delivered = [], Jobs.on_delivered
def note(self, job, has_failed):
    count.append(job.number)
    on_delivered(self, job, has_failed)
Jobs.on_delivered = note
atexit.register(lambda: open(os.environ["JOBS_OF_PROGRAM"], "w").write(str(len(count))))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pages.cluster(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.mark.timeout(
    180
)  # most of it goes by while libraries are imported, in the program and in two runners
@pytest.mark.parametrize("title", TITLES)
def test_the_library_runs_its_calls_on_the_cluster(title, home, tmp_path):
    for name in IMPORTS[title]:
        import_recipe(name)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "sitecustomize.py").write_text(COUNTER)
    (tmp_path / "script.py").write_text(PROGRAMS[title].text)
    printed = pages.run(
        [sys.executable, "script.py"],
        tmp_path,
        timeout=170,
        CW_HOME=home,
        PYTHONPATH=f"{pages.ROOT}:{tmp_path / 'names'}",
        JOBS_OF_PROGRAM=str(tmp_path / "jobs"),
    )
    assert printed.splitlines() == PROGRAMS[title].promised
    assert int(Path(tmp_path, "jobs").read_text()) > 0


@pytest.mark.slow
def test_ten_libraries_are_there_with_the_cluster_in_three_lines_and_a_row_each():
    assert len(PROGRAMS) == 10
    for title, snippet in PROGRAMS.items():
        of_cluster = re.findall(r"^(?!from ).*\b(?:cw|pool|executor)\b.*$", snippet.text, re.MULTILINE)
        assert len(of_cluster) <= 3, (title, of_cluster)
    assert re.findall(r"^\| \[(.*?)\]\(#", pages.read(PAGE), re.MULTILINE) == TITLES


def test_pip_brings_each_library_in_a_range_of_versions():
    setup = pages.read(pages.ROOT / "setup.py")
    (listed,) = re.findall(r'^ +"recipes": \[(.*?)\n +\],', setup, re.MULTILINE | re.DOTALL)
    ranges = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?(>=[\d.]+,<[\d.]+)"', listed))
    imported = {name.replace("sklearn", "scikit-learn") for name in set.union(*IMPORTS.values()) - {"numpy"}}
    assert ranges.keys() == imported and len(ranges) == listed.count("\n")
