"""The library that draws a report's pictures: whether it is there. (Loading it takes a second.)"""

from __future__ import annotations

import importlib.util

NAME = "matplotlib"


def check() -> None:
    """Raise ModuleNotFoundError, which says what to do, if it is missing."""
    if importlib.util.find_spec(NAME) is None:
        raise ModuleNotFoundError(
            f"a report needs {NAME}, which is not installed: pip install {NAME}", name=NAME
        )
