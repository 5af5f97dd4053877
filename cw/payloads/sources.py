"""Source lines in a job's traceback: the runner lacks those of a notebook's cell, or of a script that it cannot see.

File "/tmp/ipykernel_7/13758422.py", line 2, in bad        from the runner
Cell In[2], line 2, in bad                                 what is shown at home
    return 1 / x
"""

from __future__ import annotations

import linecache
import re
from typing import Any

from cw.payloads.environment import ipython_shell

_FRAME = re.compile(
    r'^(?P<indent>[ |]*  )File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?P<rest>.*)\n(?!(?P=indent)  \S)', re.M
)
"""A frame without its source line."""


def with_sources(text: str) -> str:
    """Return a traceback with the source lines that are known here and were not there. Never raises.

    A frame without one has code that this program has sent, so what is found here is its source.
    """
    try:
        return _FRAME.sub(_with_source, text)
    except Exception:  # a source that cannot be decoded
        return text


def _with_source(frame: re.Match[str]) -> str:
    file, indent = frame["file"], frame["indent"]
    source = linecache.getline(file, int(frame["line"])).strip()
    label = _cell(file)
    if label is None and not source:
        return frame[0]
    place = f'File "{file}"' if label is None else label
    return f"{indent}{place}, line {frame['line']}{frame['rest']}\n" + (
        f"{indent}  {source}\n" if source else ""
    )


def _cell(file: str) -> str | None:
    """Return the name that IPython has for the file of a cell, such as 'Cell In[2]', or None."""
    name_of: Any = getattr(getattr(ipython_shell(), "compile", None), "format_code_name", None)
    found = None if name_of is None else name_of(file)
    return None if found is None else " ".join(found)
