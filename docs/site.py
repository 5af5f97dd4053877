"""MkDocs hook: brings what stands outside docs/ into the site, so that links work there and in the repository.

README.md, CONTRIBUTING.md, CHANGELOG.md    become pages: index, contributing, changelog
what a page links to outside docs/          is copied, under the path that it has in the repository
<!-- modules -->                            becomes a table of all modules
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
MODULES = "<!-- modules -->"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the root, and what any page links to outside docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(lambda link: _in_site(link[0], ""), text)))
    for file in list(files.documentation_pages()):
        for target in LINK.findall(file.content_string):
            path = posixpath.normpath(target if file.generated_by else posixpath.join("docs", target))
            if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
                if files.get_file_from_path(path) is None:
                    files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site, and fill in the table of modules."""
    if page.file.generated_by:
        return markdown
    markdown = LINK.sub(lambda link: _in_site(link[0], "docs"), markdown)
    return markdown.replace(MODULES, _table_of_modules()) if MODULES in markdown else markdown


def _in_site(link: str, directory: str) -> str:
    """The place in the site of what `link` names, seen from a page that stands in `directory` of the repository."""
    if ":" in link:
        return link
    path = posixpath.normpath(posixpath.join(directory, link))
    return PAGES.get(path, path.removeprefix("docs/"))


def _table_of_modules() -> str:
    rows = ["| module | |", "|---|---|"]
    for path in sorted((ROOT / "cw").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summary = " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| `{path.relative_to(ROOT)}` | {summary} |")
    return "\n".join(rows)
