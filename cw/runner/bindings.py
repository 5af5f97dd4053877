"""Bindings of names in a runner's namespaces, and what set each last: a constant, a component, a definition, or a job.

If the client's value of a name is unchanged, the name is left alone: what a job sets stays for the next one until the
client's value changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cw.net import memory
from cw.payloads import local_functions, serialize, shared

MEMO_BYTES = 1024 * 1024  # as in cw.client.functions.components


class Bindings:
    """Records what set each name last."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        """Names that got another value for the call that is about to run."""
        self.versions: dict[str, bytes] = {}
        """Versions of the definitions in force, by name."""
        self.placed: dict[Any, int] = {}
        """Component that set each place last."""
        self._bound: dict[tuple[str, str], int] = {}  # versions of constants that were set

    def define(self, names: dict[str, Any], name: str, thing: Any, version: bytes) -> None:
        """Bind a name to a new definition of the script."""
        names[name] = thing
        self.changed.add(name)
        self._bound.pop(("__main__", name), None)
        self.placed.pop(("global", "__main__", name), None)
        self.versions[name] = version

    def fill(self, token: Any, names: Iterable[str]) -> None:
        """A class has got these attributes with its definition: no component holds their values any more."""
        for name in names:
            self.placed.pop(("attribute", token, name), None)

    def lose(self, names: dict[str, Any], name: str) -> None:
        """Unbind a name of the script whose value is not available any more."""
        names.pop(name, None)
        self.versions.pop(name, None)
        self.placed.pop(("global", "__main__", name), None)
        self._bound.pop(("__main__", name), None)

    def bind_early(self, rows: list[tuple[str, str, Any]]) -> None:
        """Bind constants that no call has bound so far."""
        for key, name, value in rows:
            if (key, name) not in self._bound:
                local_functions.namespace_of(key).setdefault(name, value)

    def bind(self, rows: list[tuple[str, str, int, Any]]) -> None:
        """Set constants to the values of the call."""
        for key, name, version, value in rows:
            if self._bound.get((key, name)) != version:
                local_functions.namespace_of(key)[name] = value
                self._bound[key, name] = version
                self.changed.add(name)
                self.placed.pop(("global", key, name), None)
                if key == "__main__":
                    self.versions.pop(name, None)

    def unbind(self, key: str, name: str, is_defined: bool) -> None:
        """Unbind a name that the client has deleted, unless a job has set it. `is_defined`: it is a definition now."""
        was_bound = self._bound.pop((key, name), None) is not None
        was_bound |= self.placed.pop(("global", key, name), None) is not None
        if key == "__main__" and not is_defined:
            was_bound |= self.versions.pop(name, None) is not None
        if was_bound:
            local_functions.namespace_of(key).pop(name, None)

    def set_place(self, key: Any, value: Any, component: int | None = None) -> None:
        """Set a value where calls look for it; `component`: the one that holds it."""
        if component is None:
            self.placed.pop(key, None)
        else:
            self.placed[key] = component
        kind, holder, name = key
        if kind == "global":
            local_functions.namespace_of(holder)[name] = value
            self._bound.pop((holder, name), None)
            if holder == "__main__":
                self.versions.pop(name, None)
            return
        holder = local_functions.by_token.get(holder)
        if holder is None:
            return
        if kind == "default":
            holder.__defaults__ = (*holder.__defaults__[:name], value, *holder.__defaults__[name + 1 :])
        elif kind == "keyword":
            holder.__kwdefaults__[name] = value
        elif kind == "member":
            member, attribute = name
            vars(holder[member])[attribute] = value
        elif kind == "cell":
            holder.__closure__[name].cell_contents = value
        elif isinstance(holder, type):
            type.__setattr__(holder, name, value)
        else:
            holder.__dict__[name] = value


class Places:
    """Values that can change, set where calls look for them. `payload_of(number)` returns a component's payload."""

    def __init__(self, payload_of: Callable[[int], Any], bindings: Bindings) -> None:
        self._payload_of = payload_of
        self._bindings = bindings
        self._places: dict[int, list[Any]] = {}  # by number of the component
        self._memos: dict[int, dict[int, Any]] = {}  # objects in small components
        self._held: dict[tuple[int, int], Any] = {}  # what functions and classes hold of components

    def forget(self, number: int) -> None:
        """Forget a component that will not be used again."""
        self._places.pop(number, None)
        self._memos.pop(number, None)
        for key in [key for key in self._held if key[0] == number]:
            del self._held[key]

    def apply(self, numbers: list[int]) -> None:
        """Set the values of these components in their places."""
        placed = self._bindings.placed
        for number in numbers:
            places = self._places.get(number)
            if places is None or any(placed.get(place) != number for place in places):
                self._place(number)
            else:
                self._house(number, places)

    def _house(self, number: int, places: list[Any]) -> None:
        """Set the values in functions and classes that were made after them: those that are called later share them."""
        for index, key in enumerate(places):
            if key[0] != "global" and not _is_set(key) and (number, index) in self._held:
                self._bindings.set_place(key, self._held[number, index], number)

    def shared(self, reference: tuple[int, int]) -> Any:
        """Return an object that a component holds, for the pickle of a call's state."""
        number, place = reference
        if place < 0:
            index = -1 - place
            keys = self._places.get(number) or self._load(number)[0]
            try:
                return _value_at(keys[index])
            except KeyError:  # the function was redefined, and does not hold it any more
                if (number, index) not in self._held:
                    self._held[number, index] = self._load(number)[1][index]
                return self._held[number, index]
        if number not in self._memos:  # its names have other values by now
            self._load(number)
        return self._memos[number][place]

    def _load(self, number: int) -> tuple[Any, list[Any]]:
        payload = memory.fresh(self._payload_of(number))
        (keys,) = serialize.load_parts(payload, 1)
        memos: list[Any] = []
        _, *values = serialize.load_parts(
            payload, 1 + len(keys), None, memos if len(payload) < MEMO_BYTES else None
        )
        if memos:
            self._memos[number] = memos[0]
        return keys, values

    def _place(self, number: int) -> None:
        keys, values = self._load(number)
        for key, value in zip(keys, values, strict=True):
            self._bindings.changed.add(key[2] if key[0] == "global" else key[1][0])
            self._bindings.set_place(key, value, number)
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key[0] != "global":
                self._held[number, index] = value
        self._places[number] = keys


class SharedNames:
    """Global names that are bound to shared values, for each call anew."""

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings
        self._held: dict[
            tuple[str, str], tuple[str, Any]
        ] = {}  # what was bound last: name of the value, and the value

    def bind(self, rows: list[tuple[str, str, str]]) -> None:
        """Bind the names of a call."""
        for namespace, name, shared_name in rows:
            value = shared.value_of(shared_name)
            before = self._held.get((namespace, name))
            if before is None or before[0] != shared_name:
                self._bindings.changed.add(name)
            self._bindings.set_place(("global", namespace, name), value)
            self._held[namespace, name] = shared_name, value

    def unbind(self, absent: list[tuple[str, str]]) -> None:
        """Unbind these names, which the client has deleted, as far as they are bound to shared values."""
        for key in absent if self._held else ():
            self._let_go(key)

    def forget(self, number: int) -> None:
        """Forget an object that will not be used again. If it is a shared value, its names let it go."""
        for gone in shared.forget(number):
            for key in [key for key, (held, _) in self._held.items() if held == gone]:
                self._let_go(key)

    def _let_go(self, key: tuple[str, str]) -> None:
        """Unbind a name that is still bound to its shared value."""
        _, value = self._held.pop(key, ("", None))
        names = local_functions.namespace_of(key[0])
        if value is not None and names.get(key[1]) is value:
            del names[key[1]]


def _is_set(key: Any) -> bool:
    """True if there is a value in this place of a function or class."""
    try:
        return _value_at(key) is not local_functions.HOLE
    except (LookupError, ValueError):  # an empty cell
        return False


def _value_at(key: Any) -> Any:
    kind, holder, name = key
    if kind == "global":
        return local_functions.namespace_of(holder)[name]
    holder = local_functions.by_token[holder]
    if kind == "default":
        return holder.__defaults__[name]
    if kind == "keyword":
        return holder.__kwdefaults__[name]
    if kind == "cell":
        return holder.__closure__[name].cell_contents
    return vars(holder[name[0]])[name[1]] if kind == "member" else vars(holder)[name]
