"""PYTHONHASHSEED, which fixes the hashes of strings: that of this process, and which values Python takes."""

from __future__ import annotations

import os
from typing import Any


def of_this_process() -> str:
    """Return the PYTHONHASHSEED that this process was given, from '0' to '4294967295'; '' if hashes of strings are
    random here."""
    seed = os.environ.get("PYTHONHASHSEED", "")
    return str(int(seed)) if is_valid(seed) else ""


def is_valid(seed: Any) -> bool:
    """True for a PYTHONHASHSEED that fixes hashes. (With an invalid one, Python does not start.)"""
    return isinstance(seed, str) and seed.isascii() and seed.isdigit() and int(seed[:20]) < 2**32
