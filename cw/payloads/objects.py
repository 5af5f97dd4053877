"""Payloads of a session's objects, which a client writes and its runners read.

FUNCTION             Function: how a job's calls are made, and the numbers of all that they need
VALUE  template      cw.payloads.templates
       definition    one function or class of the script: a skeleton, and what it is filled with
       class         the definition of a class without a name there
       script        all definitions, and how to get other names of the script
       component     the keys of places, then their values (serialize.Pickled)
       state         what the object of a call holds (serialize.Pickled)
SHARED               a value of cw.share (serialize.Pickled)
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from cw.errors import PayloadError
from cw.named_tuple import NamedTuple
from cw.payloads import script

ONE, CHUNK, CHUNK_OF_EACH = range(3)
"""Arguments of a job: those of one call; of several, run up to the first that fails; of several, each with its own
outcome."""


class Reached(NamedTuple):
    """Objects that calls of a function reach, by number."""

    constants: tuple[bytes, ...]  # rows of namespace, name, version, value: the script's are last
    absent: list[tuple[str, str]]  # names that are read and not bound: namespace and name
    lost: list[tuple[Any, str]]  # places whose values cannot be pickled, and why
    # Paths of cached functions, and the names that they reach.
    caches: list[tuple[tuple[str, ...], list[str]]]
    modules: list[str]  # those used as parts of others, as `os.path` is
    settings: int  # settings of the user's modules, or 0
    template: int
    script: int
    definitions: list[int]
    components: list[int]
    classes: list[tuple[bytes, bytes, int]]  # without a name: identity, version, the definition's number
    shared: list[tuple[str, int]]  # shared values: name and number
    bound: list[
        tuple[str, str, str]
    ]  # global names that are bound to some: namespace, name, the value's name


class Function(NamedTuple):
    """A FUNCTION object."""

    mode: int
    is_inline: bool  # the state is pickled before the arguments of each call
    state: int  # the number of a state that is an object, or 0
    is_fixed: bool  # the state cannot change
    # The initializer's FUNCTION, and the VALUE with its arguments; empty: there is none. (It has none itself.)
    first: tuple[int, ...]
    reached: Reached


class Definition(NamedTuple):
    """A function or class of the script."""

    name: str
    version: bytes
    token: Any
    skeleton: bytes
    filling: bytes


def dump_function(function: Function) -> bytes:
    """Encode a function for `load_function`."""
    return pickle.dumps((*function[:-1], tuple(function.reached)), 5)


def load_function(payload: Any) -> Function:
    """Decode a FUNCTION object. Raises PayloadError."""
    try:
        mode, is_inline, state, is_fixed, first, reached = pickle.loads(payload)
        return Function(mode, is_inline, state, is_fixed, first, Reached(*reached))
    except Exception as error:
        raise PayloadError(f"the payload is not that of a function: {error}") from None


def dump_definition(definition: Definition) -> bytes:
    """Encode a definition for `load_definition`."""
    return pickle.dumps(tuple(definition), 5)


def load_definition(payload: Any) -> Definition:
    return Definition(*pickle.loads(payload))


def dump_script(
    definitions: Sequence[tuple[bytes, list[Any]]], others: dict[str, tuple[Any, ...]], constants: bytes
) -> bytes:
    """Encode the script. `definitions`: each with the values that it holds and that can change. `others`: how to get
    the other names. `constants`: rows of those that functions of other namespaces need."""
    return pickle.dumps((script.origin(), definitions, others, constants), 5)


def load_script(payload: Any) -> tuple[Any, Any, Any, Any]:
    """Return the script's origin, and what `dump_script` was given."""
    origin, definitions, others, constants = pickle.loads(payload)
    return origin, definitions, others, constants


def load_rows(data: bytes) -> list[Any]:
    """Load the constants that `dump_script` was given; none if they cannot be loaded here."""
    try:
        return list(pickle.loads(data)) if data else []
    except Exception:
        return []


class Unpickler(pickle.Unpickler):
    """Unpickler that calls `require(name)` before it looks up a name of the script."""

    def __init__(self, data: bytes, require: Callable[[str], None]) -> None:
        super().__init__(io.BytesIO(data))
        self._require = require

    def find_class(self, module_name: str, name: str) -> Any:
        if module_name in script.MODULES:
            self._require(name)
        return super().find_class(module_name, name)
