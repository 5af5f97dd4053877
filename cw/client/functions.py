"""What the calls of a session need in a runner, as numbered objects: each is sent once, and anew when it has changed.

    submit(f, x)   template_of(f):  how f travels           NAMED   by its name: the runner's script has it
                                                            LOCAL   its code; its cells and defaults are *state*
                                                            OBJECT  obj.m, partial, obj: all of it is state
                   number_of(...):  the FUNCTION object that the job names; it needs
                                      the template, the environment, the script's definitions,
                                      the values that the call reaches (`cw.payloads.reach`), and a large state

State is pickled at each submit, and each call gets a fresh copy: a small one with the arguments, a large one as an
object, found again by its digest. What the call reaches is looked at: names by identity at each submit; what can change
in place by its pickle, while that costs little (LOOK_SECONDS, LOOK_SHARE), and at each `map` and notebook cell.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import pickle
import time
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from cw.client.objects import ObjectTable
from cw.net import messages as m
from cw.payloads import byvalue, constants, environment, named, naming, reach, script, serialize
from cw.payloads.reach import Definition, Place, PlaceKey, Reach
from cw.payloads.serialize import Payload, Pickled
from cw.store import callkey
from cw.store.callkey import FunctionKey

logger = logging.getLogger("cw.client")

KNOWN = 1024
"""Functions, and what calls reach, that are remembered. More: memory. Fewer: a function that comes round again after so
many others is pickled again."""

INLINE = 8 * 1024
"""Bytes of state that travel with each call. More: the same bytes travel often. Less: a state that differs from call to
call makes an object each time."""

LOOK_SECONDS = 0.001
"""A look at what can change in place that costs less is taken at each submit."""

LOOK_SHARE = 0.05
"""Share of the time that more costly looks may take. More: submits are slower. Less: changes are seen later."""

SHARED_IDS = 1_000_000
"""Objects in a value, beyond which it is not looked for objects that it shares with others."""

# How a template says what is called.
NAMED, LOCAL, OBJECT = range(3)

# How a job's arguments are used.
ONE, CHUNK, CHUNK_OF_EACH = range(3)
"""One call; calls up to the first that fails (`chunks.run`); calls each with its outcome (`chunks.run_each`)."""


class UnseenChanges(UserWarning):
    """A value that a call reads is too large to be looked at before each submit."""


class Template:
    """How one function travels, but for what changes from call to call."""

    __slots__ = ("form", "function", "name", "blob", "direct", "object", "fixed", "__weakref__")

    def __init__(self, form: int, name: str, blob: bytes = b"", function: Any = None) -> None:
        self.form = form
        self.name = name
        self.blob = blob
        self.function = function  # of a NAMED or LOCAL one: a weak reference
        self.direct: frozenset[str] = frozenset()
        self.object: Any = None
        self.fixed: Any = None  # the pickled state of a LOCAL one that cannot change
"""A template's parts."""
