"""Records: the objects of all that calls of a function reach, made once, and anew when any of it has changed.

Reach --> constants            one pickle; each with a version, another one when its name is bound anew
      --> definitions          an object each
      --> places --group-->    components, an object each, checked for changes: `cw.client.functions.components`
ScriptTable                    one object of all that the script defines
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import time
import warnings
from collections.abc import Sequence
from typing import Any

import xxhash

from cw.client.functions.components import (
    Component,
    group,
    ids_of,
    is_shared,
    pickle_places,
    pickle_steadily,
)
from cw.client.functions.script import ScriptTable, reason
from cw.client.session.objects import ObjectTable
from cw.errors import UnseenChanges
from cw.net import messages as m
from cw.payloads import (
    byvalue,
    constants,
    environment,
    generators,
    local_functions,
    named,
    objects,
    script,
    serialize,
    shared,
    templates,
)
from cw.payloads.pickled import Pickled
from cw.payloads.reach import Definition, Place, Reach, caches_in
from cw.payloads.templates import NAMED, Template
from cw.payloads.watch import Watch

LOOK_SECONDS = 0.001
"""Cost of a check for changes in place up to which it runs at each submit (seconds). Larger: submits are slower.
Smaller: changes are seen later."""

LOOK_SHARE = 0.05
"""Share of the time that costlier checks may take. Larger: submits are slower. Smaller: changes are seen later."""

LARGE = 64 * 1024
"""Size of a value (bytes) above which it is forgotten as soon as another one takes its place."""

STEADY_LOOKS = 10
"""Number of checks of a small value after which the user is warned that they take long."""

COMPONENTS = 4096
"""Number of values that are remembered for comparison."""

_COMPARED = frozenset({int, float, complex, bool, str, type(None)})


class Record:
    """All that calls of one template with certain arguments reach, and the FUNCTION objects made of it, by state."""

    __slots__ = (
        "components", "functions", "generation", "looked", "lost", "needs", "numbers", "pickles", "reached", "watch"
    )  # fmt: skip

    def __init__(self, looked: int, generation: int) -> None:
        self.watch = Watch()
        self.components: list[Component] = []
        self.numbers: list[int] = []  # the components' objects when the record was made
        self.lost: list[Place] = []  # places whose values could not be pickled
        self.needs: list[int] = []
        self.reached: objects.Reached
        self.pickles: Sequence[bytes] = ()  # of the values, to be searched for random generators
        self.functions: dict[tuple[int, bool, tuple[int, ...]], int] = {}
        self.looked = looked
        self.generation = generation


class RecordMaker:
    """Makes the records of one session, under its lock."""

    def __init__(self, table: ObjectTable) -> None:
        self._objects = table
        self._definitions: dict[str, Definition] = {}
        self._versions: dict[tuple[str, str], tuple[Any, int]] = {}  # of constants
        self._components: dict[tuple[Any, ...], Component] = {}
        # Places that have shared an object with a place, by its key.
        self._joint: dict[Any, tuple[Place, ...]] = {}
        self._script = ScriptTable(self.definition_of, self.object_of)
        self._settings = b""
        self._looks = 1
        self._generation = 0  # counts environments
        self._warned: set[str] = set()
        self.shell = environment.ipython_shell()
        """IPython's shell in a notebook, where each execution of a cell checks all values."""
        self._cell: Any = None if self.shell is None else self.shell.execution_count
        self.epoch = 0
        """Raised when everything must be checked again."""

    def refresh(self) -> None:
        """Check everything that a function reaches when it is submitted next."""
        self._looks += 1
        self.epoch += 1

    def renew(self) -> None:
        """Make everything anew, for a new environment."""
        self._generation += 1
        self.epoch += 1

    def set_settings(self, payload: bytes) -> None:
        """Set the settings of the user's modules, and make everything anew."""
        self._settings = payload
        self.renew()

    def object_of(self, kind: int, needs: Sequence[int], payload: Any, digest: bytes | None = None) -> int:
        """Return the number of an object; the same content gives the same object."""
        if digest is None:
            digest = xxhash.xxh3_128_digest(payload)
        return self._objects.add(kind, needs, payload, digest + repr((kind, *needs)).encode())

    def on_forgotten(self, numbers: set[int]) -> None:
        """Make whatever refers to these objects anew if it is needed again."""
        self.epoch += 1
        for component in self._components.values():
            if component.number in numbers:
                component.number = 0
        self._script.on_forgotten(numbers)

    def is_up_to_date(self, record: Record) -> bool:
        """True if nothing that the record was made from has changed."""
        if self.shell is not None and self.shell.execution_count != self._cell:
            self._cell = self.shell.execution_count
            self.refresh()
        if not record.watch.is_current() or record.generation != self._generation:
            return False
        if record.lost and any(map(_can_be_pickled, record.lost)):
            return False
        components = record.components
        if components and (
            self._have_changed(record) or [each.number for each in components] != record.numbers
        ):
            return False
        if record.looked != self._looks:
            if self._script.number() != record.reached.script:
                return False
            record.looked = self._looks
        return True

    def _have_changed(self, record: Record) -> bool:
        """Check values that can change in place, as far as the time allows."""
        components = record.components
        if record.looked != self._looks or sum(each.seconds for each in components) < LOOK_SECONDS:
            changed = [each for each in components if each.has_changed()]  # a list, so that all are checked
            return bool(changed)
        has_changed = False
        for each in components:
            if each.seconds < LOOK_SECONDS / len(components):
                has_changed = each.has_changed() or has_changed
            elif time.monotonic() - each.looked_at > each.seconds / LOOK_SHARE:
                has_changed = each.has_changed() or has_changed
            elif not self._has_warned_of(each):
                has_changed = each.has_changed() or has_changed
        return has_changed

    def _has_warned_of(self, component: Component) -> bool:
        """Warn the user once that this value is not checked each time. False: too early for a warning."""
        label = " and ".join(place.label for place in component.places)
        if component.size < LARGE and component.looks < STEADY_LOOKS:
            return False  # perhaps something else took the time
        if label in self._warned:
            return True
        self._warned.add(label)
        warnings.warn(
            f"{label}: {component.size / 1e6:.3g} MB, and a look for changes in place takes "
            f"{component.seconds * 1000:.2g} ms: too long for each submit(). A change in place may be seen late. Pass "
            "it as an argument, bind the name anew after a change, or call executor.refresh() then",
            UnseenChanges,
            stacklevel=generators.frames_of_cw(),
        )
        return True

    def make(
        self, template: Template, names: Any, codes: Any, function: Any, before: Record | None
    ) -> Record:
        """Make a record in place of `before`. Raises NotPicklable."""
        record = Record(self._looks, self._generation)
        self._script.number()  # so that all definitions are known
        reach = Reach(self.definition_of)
        try:
            reach.add([*template.names, *names], [*template.codes, *codes])
            constants_data, components = self._follow(reach, template, function)
        except byvalue.Unpicklable as failure:
            raise serialize.refusal_of_function(function, failure) from failure.__cause__
        record.watch = reach.watch
        record.pickles = [*constants_data, *[each.seen.data for each in components if each.seen is not None]]
        record.components = [each for each in components if not each.is_fixed]
        record.numbers = [each.number for each in record.components]
        record.lost = [reach.places[key] for key in reach.lost if key in reach.places]
        self._number_all(record, template, reach, constants_data, components)
        for component in () if before is None else before.components:
            if component not in components:  # its places are constants now, gone, or part of others
                self._components.pop(tuple(place.key for place in component.places), None)
        if before is not None and before.generation == record.generation and before.reached == record.reached:
            record.functions = before.functions
        return record

    def _number_all(
        self,
        record: Record,
        template: Template,
        reach: Reach,
        constants_data: tuple[bytes, ...],
        components: list[Component],
    ) -> None:
        """Make an object of each part of what is reached."""
        record.reached = reached = objects.Reached(
            constants=constants_data,
            absent=sorted(reach.absent),
            lost=list(reach.lost.items()),
            caches=self._caches_in(reach),
            modules=sorted(reach.modules),
            settings=self.object_of(m.VALUE, (), self._settings) if self._settings else 0,
            template=self.object_of(m.VALUE, (), template.payload),
            script=self._script.number(),
            definitions=[
                self.object_of(m.VALUE, (), objects.dump_definition(each.parts))
                for each in reach.definitions.values()
            ],
            components=[each.number for each in components],
            classes=[
                (each.identity, each.version, self.object_of(m.VALUE, (), each.data))
                for each in reach.classes.values()
            ],
            shared=[(name, self._number_shared(content)) for name, content in sorted(reach.shared.items())],
            bound=sorted((*key, name) for key, name in reach.bound.items()),
        )
        # The template first: estimates of jobs' durations go by it.
        record.needs = [reached.template, self._objects.environment, reached.script, *reached.definitions]
        record.needs += reached.components
        record.needs += [number for _, _, number in reached.classes]
        record.needs += [reached.settings] if reached.settings else []
        record.needs += [number for _, number in reached.shared]

    def _number_shared(self, content: shared.Content) -> int:
        payload = content.payload
        content.check()  # after that, since another thread may release it now
        number = self._objects.add(m.SHARED, (), payload, content.name)
        content.numbers[self._objects] = number
        return number

    def extend(self, number: int, names: Sequence[str], codes: Sequence[Any], function: Any) -> int:
        """Return the number of a FUNCTION object like this one, whose calls also reach what a value refers to: `names`
        and `codes`, as in Pickled. Raises NotPicklable.

        What both reach has the values of the first, which are those of the call's submit.
        """
        made = self._objects.get(number)
        before = objects.load_function(made.payload)
        reached = before.reached
        other = self.make(Template(NAMED, ""), names, codes, function, None).reached
        known = {identity for identity, _, _ in reached.classes}
        classes = [each for each in other.classes if each[0] not in known]
        shared = [each for each in other.shared if each not in reached.shared]
        merged = reached._replace(
            constants=tuple(new + old for new, old in zip(other.constants, reached.constants, strict=True)),
            modules=sorted({*reached.modules, *other.modules}),
            script=other.script,
            definitions=list(dict.fromkeys([*other.definitions, *reached.definitions])),
            components=list(dict.fromkeys([*other.components, *reached.components])),
            classes=[*reached.classes, *classes],
            shared=[*reached.shared, *shared],
        )
        needs = [each.number for each in made.needs]
        needs += [other.script, *other.definitions, *other.components, *[each[2] for each in classes]]
        needs += [number for _, number in shared]
        payload = objects.dump_function(before._replace(reached=merged))
        return self.object_of(m.FUNCTION, list(dict.fromkeys(needs)), payload)

    def _follow(
        self, reach: Reach, template: Template, function: Any
    ) -> tuple[tuple[bytes, ...], list[Component]]:
        """Pickle what is reached until nothing new is."""
        pickled: dict[Any, Pickled] = {}
        data: tuple[bytes, ...] = ()
        count = -1
        while True:
            if len(reach.constants) != count:
                count = len(reach.constants)
                rows = [(*key, self._version_of(key, value), value) for key, value in reach.constants.items()]
                data = tuple(
                    self._dump_rows(reach, [row for row in rows if (row[0] == "__main__") == is_main])
                    for is_main in (False, True)
                )
            for key in [key for key in reach.places if key not in pickled and key not in reach.lost]:
                place = reach.places[key]
                try:
                    each = pickled[key] = pickle_steadily([place])
                except byvalue.Unpicklable as failure:
                    self._lose(reach, place, template, function, failure)
                    continue
                reach.add(each.names, each.codes)
            for place in self._sharing(reach, pickled):
                reach.places[place.key] = place
            if len(reach.constants) == count and reach.places.keys() <= pickled.keys() | reach.lost.keys():
                break
        places = sorted([reach.places[key] for key in pickled], key=lambda place: repr(place.key))
        pickles = [pickled[place.key] for place in places]
        grouped = [
            self._component([places[index] for index in indices], [pickles[index] for index in indices])
            for indices in group(places, pickles)
        ]
        for component in grouped:
            if len(component.places) > 1:
                for place in component.places:
                    self._joint[place.key] = component.places
        return data, grouped

    def _caches_in(self, reach: Reach) -> list[tuple[tuple[str, ...], list[str]]]:
        """Return functions with a cache, which must be cleared when something that they reach has changed."""
        found = []
        for name, definition in reach.definitions.items():
            paths = [(name, *path) for path in caches_in(definition.thing)]
            if paths:
                inner = Reach(self.definition_of)
                inner.add([name], ())
                names = {key[2] if key[0] == "global" else key[1][0] for key in inner.places}
                names |= inner.definitions.keys() | {name for _, name in inner.constants}
                found += [(path, sorted(names)) for path in paths]
        return found

    def _dump_rows(self, reach: Reach, rows: list[Any]) -> bytes:
        file = io.BytesIO()
        pickler = named.NamedPickler(file)
        byvalue.run(pickler, rows)
        reach.add(pickler.names, pickler.codes.values())
        return file.getvalue()

    def _sharing(self, reach: Reach, pickled: dict[Any, Pickled]) -> list[Place]:
        """Return other places of the script whose values are part of those reached. A value that places share must be
        one object in the runner, even if no single call reads both."""
        parts = ids_of(list(pickled.values()))
        if not parts:
            return []
        names = script.namespace()
        candidates = [
            Place(("global", "__main__", name), name, functools.partial(names.__getitem__, name))
            for name, value in list(names.items())
            if id(value) in parts and not name.startswith("__")
        ]
        candidates += [place for definition in self._definitions.values() for place in definition.places]
        for key in pickled:
            candidates += self._joint.get(key, ())
        found = []
        for place in candidates:
            if place.key not in reach.places:
                with contextlib.suppress(Exception):  # the place is gone
                    value = place.get()
                    if (id(value) in parts or place.key in self._joint) and is_shared(value):
                        found.append(place)
        return found

    def _lose(
        self, reach: Reach, place: Place, template: Template, function: Any, failure: byvalue.Unpicklable
    ) -> None:
        """Note why a value cannot be pickled, for a job that reads it. Raises if the function itself reads it."""
        kind, holder, name = place.key
        own = templates.own_function(function)
        is_own = (
            kind == "global"
            and name in template.reads
            and own is not None
            and local_functions.key_of(own.__globals__) == holder
        )
        if is_own or (
            kind in ("cell", "default", "keyword") and own is not None and holder[0] == own.__name__
        ):
            raise failure
        reach.lost[place.key] = reason(failure)

    def _component(self, places: list[Place], pickled: list[Pickled]) -> Component:
        key = tuple(place.key for place in places)
        whole = pickled[0] if len(places) == 1 else pickle_steadily(places)
        known = self._components.get(key)
        if known is None:
            if len(self._components) >= COMPONENTS:
                del self._components[next(iter(self._components))]
            known = self._components[key] = Component(places, whole)
        elif known.digest != whole.digest() or known.is_bound_anew():
            if known.number and known.size > LARGE:
                self._objects.forget([known.number])
            known.serial += known.digest == whole.digest()
            known.take(places, whole)
            known.number = 0
        known.seen = whole
        known.is_fixed = all(constants.is_fixed(place.get()) for place in places)
        if not known.number:
            known.number = self.object_of(m.VALUE, (), whole.payload(), known.digest + b"%d" % known.serial)
        return known

    def _version_of(self, key: tuple[str, str], value: Any) -> int:
        """Return the version number of a constant: another one whenever the name is bound to another value."""
        known = self._versions.get(key)
        if known is not None:
            before, version = known
            if before is value or _is_equal(before, value):
                return version
        version = next(_version_numbers)
        self._versions[key] = value, version
        return version

    def definition_of(self, name: str, thing: Any) -> Definition:
        known = self._definitions.get(name)
        if known is None or known.thing is not thing:
            known = self._definitions[name] = Definition(name, thing)
        elif not known.watch.is_current():
            known.renew()
        return known


_version_numbers = itertools.count(1)


def _can_be_pickled(place: Place) -> bool:
    try:
        pickle_places([place])
    except Exception:
        return False
    return True


def _is_equal(before: Any, value: Any) -> bool:
    """True if two constants cannot be distinguished. (-0.0 and 0.0 can.)"""
    kind = type(value)
    if kind not in _COMPARED or type(before) is not kind or before != value:
        return False
    return kind not in (float, complex) or repr(before) == repr(value)
