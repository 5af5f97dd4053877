"""The script's functions and classes in a runner, made first and filled later, as they may refer to each other.

definitions that a call reaches --take--> those not in force, with all others not in force --make-->
each skeleton is made when a pickle asks for it, or in its turn; then each is filled, in the same way
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from cw.payloads import classes, local_classes, local_functions, objects, serialize
from cw.runner.bindings import Bindings


class Definitions:
    """Definitions of the script. `payload_of(number)` returns an object's payload. `names`: the script's."""

    def __init__(self, payload_of: Callable[[int], Any], names: dict[str, Any], bindings: Bindings) -> None:
        self._payload_of = payload_of
        self._names = names
        self._bindings = bindings
        self._rows: dict[str, objects.Definition] = {}  # all definitions, as in the script object
        self._small: dict[str, list[Any]] = {}  # small values that each holds
        self._by_number: dict[int, objects.Definition] = {}  # definitions that calls have reached
        self._unreached: set[str] = set()  # made though no call has reached them
        self._to_make: dict[str, objects.Definition] = {}
        self._to_fill: dict[str, objects.Definition] = {}
        self._is_filling = False  # all are made
        self.is_reached = False
        """True while a definition is made that the call reaches."""

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def forget(self, number: int) -> None:
        """Forget an object that will not be used again."""
        self._by_number.pop(number, None)

    def take_all(self, rows: list[tuple[bytes, list[Any]]]) -> None:
        """Take all definitions that the script has now, each with the small values that it holds."""
        loaded = [(objects.load_definition(data), small) for data, small in rows]
        self._rows = {row.name: row for row, _ in loaded}
        self._small = {row.name: small for row, small in loaded}

    def take(self, numbers: list[int]) -> bool:
        """Take the definitions that the call reaches. Returns whether there is anything to `make`."""
        rows = [self._definition(number) for number in numbers]
        versions, reached = self._bindings.versions, {row.name for row in rows}
        self._to_make = {
            row.name: row
            for row in rows
            if versions.get(row.name) != row.version or row.name in self._unreached
        }
        self._unreached.difference_update(self._to_make)
        rest = {
            name: row
            for name, row in self._rows.items()
            if name not in reached and versions.get(name, b"") < row.version
        }
        self._unreached.update(rest)
        self._to_make |= rest
        self._to_fill = dict(self._to_make)
        return bool(self._to_make)

    def make(self) -> None:
        """Put in force what was taken: the versions that the call reaches, and the newest of all others."""
        rest = [name for name in self._to_make if name in self._unreached]
        for name in list(self._to_make):
            self._make(name)
        self._is_filling = True
        try:
            for name in list(self._to_fill):
                self._fill(name)
        finally:
            self._is_filling = False
        for name in rest:
            for key, data in self._small[name]:
                with contextlib.suppress(Exception):
                    _, value = serialize.load_parts(data, 2)
                    self._bindings.set_place(key, value)

    def loads(self, data: Any) -> Any:
        """Unpickle a value, making the definitions that it needs."""
        return objects.Unpickler(data, self._require).load()

    def load_rows(self, data: Any) -> list[Any]:
        """Unpickle constants: one list, or several in sequence."""
        unpickler = objects.Unpickler(data, self._require)
        rows: list[Any] = []
        with contextlib.suppress(EOFError):
            while True:
                rows += unpickler.load()
        return rows

    def _definition(self, number: int) -> objects.Definition:
        row = self._by_number.get(number)
        if row is None:
            row = self._by_number[number] = objects.load_definition(self._payload_of(number))
        return row

    def _make(self, name: str) -> None:
        row = self._to_make.pop(name, None)
        if row is None:
            return
        try:
            with self._reaching(name not in self._unreached):
                make, arguments = self.loads(row.skeleton)
                thing = make(*arguments)
        except Exception:
            if name in self._unreached:  # no call needs it
                self._to_fill.pop(name, None)
                self._bindings.versions[name] = row.version
                return
            raise
        if isinstance(thing, type):
            classes.forget_version(thing)
        self._bindings.define(self._names, name, thing, row.version)
        with contextlib.suppress(TypeError):
            local_functions.by_token[row.token] = thing

    def _fill(self, name: str) -> None:
        row = self._to_fill.pop(name, None)
        if row is None or not row.filling:
            return
        try:
            with self._reaching(name not in self._unreached):
                set_state, state = self.loads(row.filling)
                set_state(self._names[name], state)
                self._bindings.fill(row.token, local_classes.constants_of(self._names[name]))
        except Exception:
            if name not in self._unreached:
                self._bindings.versions.pop(name, None)
                raise

    def _require(self, name: str) -> None:
        """Make a name of the script to which a pickle refers."""
        top, dot, _ = name.partition(".")
        if top in self._to_make:
            self._make(top)
        if (dot or self._is_filling) and top in self._to_fill:
            self._fill(top)  # an instance made of it now may need its methods

    @contextlib.contextmanager
    def _reaching(self, is_reached: bool) -> Iterator[None]:
        before, self.is_reached = self.is_reached, is_reached
        try:
            yield
        finally:
            self.is_reached = before
