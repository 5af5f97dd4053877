"""What pip is told: the distribution's name is ours to use, and no text of ours installs a stranger's package."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def texts():
    """(path, text) of the files that users read."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name] or [
        path for path in ROOT.rglob("*") if not path.relative_to(ROOT).parts[0].startswith((".venv", "build"))
    ]
    for path in paths:
        if path.suffix in (".py", ".md", ".toml", ".ipynb") and path.exists():
            yield path, path.read_text(encoding="utf-8")


def test_the_distribution_does_not_have_the_name_of_another_project():
    assert re.search(r'^    name="cluster-workers",', (ROOT / "setup.py").read_text(), re.MULTILINE)


def test_no_text_advises_to_install_the_package_that_the_index_calls_cw():
    advice = re.compile(r"pip install (-\w+ |--\w+ )*['\"]?cw\b")
    assert [str(path) for path, text in texts() if path != Path(__file__) and advice.search(text)] == []
