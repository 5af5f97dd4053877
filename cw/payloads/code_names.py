"""Names that code reads: global ones, those that it looks up by a text, and parts of packages."""

from __future__ import annotations

import dis
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any


@functools.lru_cache(maxsize=4096)
def global_names(code: CodeType) -> tuple[str, ...]:
    """List the names that a piece of code, with what is defined inside it, may read from its globals."""
    return tuple(dict.fromkeys(_global_names(code)))


_LOADS = {"LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
_JUMPS = frozenset(dis.hasjrel + dis.hasjabs)


def _global_names(code: CodeType) -> Iterator[str]:
    stored = set()
    is_straight = not getattr(code, "co_exceptiontable", b"")
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, instruction.argval
        is_straight = is_straight and instruction.opcode not in _JUMPS
        # The body of a class, also inside a function, reads and writes names by ..._NAME.
        if operation == "STORE_NAME" and is_straight:  # otherwise it may have been skipped
            stored.add(name)
        elif operation in _LOADS or (operation == "LOAD_NAME" and name not in stored):
            yield name
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def stored_names(function: FunctionType) -> set[str]:
    """Return the global names that a function stores, or functions of its module that it may call."""
    stored: set[str] = set()
    namespace, seen, todo = function.__globals__, set(), [function.__code__]
    while todo:
        code = todo.pop()
        seen.add(code)
        stored.update(i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL")
        called = [namespace.get(name) for name in global_names(code)]
        codes = [f.__code__ for f in called if type(f) is FunctionType and f.__globals__ is namespace]
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        todo += [each for each in codes if each not in seen]
    return stored


_BY_NAME = frozenset(
    {"globals", "vars", "eval", "exec", "getattr", "__import__", "import_module", "timeit", "Timer"}
)
_WORDS = re.compile(r"[^\W\d]\w*")


@functools.lru_cache(maxsize=4096)
def mentioned_names(code: CodeType) -> frozenset[str]:
    """Return names that code may look up by a text, as `globals()["f"]` does, or as attributes of `__main__`."""
    names = set(code.co_names)
    words: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            words |= mentioned_names(constant)
        elif type(constant) is str and names & _BY_NAME and len(constant) < 10_000:
            words.update(_WORDS.findall(constant))
        elif type(constant) is str and constant == "__main__":
            words |= names
    if "__main__" in names:
        words |= names
    return frozenset(words)


def submodules(code: CodeType, values: Iterable[Any]) -> set[str]:
    """Return modules that code uses as parts of the given ones (`os.path`), and that were imported separately."""
    words = set(code.co_names)
    packages = tuple(
        value.__name__ + "."
        for value in values
        if isinstance(value, ModuleType) and hasattr(value, "__path__")
    )
    if not packages:
        return set()
    return {
        name
        for name in list(sys.modules)
        if name.startswith(packages) and words.issuperset(name.split(".")[1:])
    }
