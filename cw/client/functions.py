"""What the calls of a session need in a runner, as numbered objects: each is sent once, and anew when it has changed.

    prepare(f)      how f travels: `cw.payloads.templates`. State (what obj.m or a closure holds) is pickled at each
                    submit, and each call gets a fresh copy: a small one with the arguments, a large one as an object,
                    found again by its digest
    number_of(...)  the FUNCTION object that the job names; it needs, in this order:
                    its template | the environment | the script | definitions | components of values | a large state
                                             all definitions'    `---- what the call reaches ---'

What the call reaches is looked at: names by identity at each submit; what can change in place by its pickle, while that
costs little (LOOK_SECONDS, LOOK_SHARE), and in any case at each `map` and notebook cell.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import pickle
import time
import types
import typing
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import xxhash

from cw.client.components import Component, group, pickle_places, shared_objects
from cw.client.objects import ObjectTable
from cw.errors import UnseenChanges, UnstableKey
from cw.net import messages as m
from cw.payloads import byvalue, constants, environment, named, naming, script, serialize, templates
from cw.payloads.reach import Definition, Place, Reach, dump_definition
from cw.payloads.serialize import Pickled
from cw.payloads.templates import LOCAL, NAMED, OBJECT, Template
from cw.store import callkey
from cw.store.callkey import FunctionKey

logger = logging.getLogger("cw.client")

KNOWN = 1024
"""Functions, and reaches of calls, that are remembered. More: memory. Fewer: a function that comes round again after so
many others is pickled again."""

INLINE = 8 * 1024
"""Bytes of state that travel with each call. More: the same bytes travel often. Less: a state that differs from call to
call makes an object each time."""

LOOK_SECONDS = 0.001
"""Looks at what can change in place that cost less are taken at each submit."""

LOOK_SHARE = 0.05
"""Share of the time that more costly looks may take. More: submits are slower. Less: changes are seen later."""

LINGERING_STATES, LINGERING_BYTES = 4, 32 * 1024**2
"""Large states that are kept although the object that held them is gone: another may hold the same
(`submit(partial(f, table), x)` in a loop). More: memory in all processes. Fewer: they travel again."""

SMALL = 64 * 1024
"""Bytes of a value that travels with its definition, though no call reaches it."""

KEY_ATTEMPTS = 5
"""How often a key is made of a function that changes meanwhile, before it is given up."""

# What the arguments of a job are.
ONE, CHUNK, CHUNK_OF_EACH = range(3)
"""Those of one call; of several, run up to the first that fails; of several, each with an outcome of its own."""


class Prepared:
    """A function, ready to be submitted. `state`: pickled already, for `map`, which takes it once."""

    __slots__ = ("mode", "named_as", "record", "state", "state_object", "template", "watch")

    def __init__(self, template: Template, mode: int) -> None:
        self.template = template
        self.mode = mode
        self.named_as: tuple[str, Any] | None = None  # the script's name, and what it was bound to
        self.record: _Record | None = None  # for calls whose arguments refer to nothing
        self.state: Pickled | None = None
        self.state_object = 0  # the number of one that is large, or cannot change
        self.watch: byvalue.Watch | None = None  # of a state that cannot change while this is current

    @property
    def is_bare(self) -> bool:
        """Do only the arguments travel with a call?"""
        return self.template.form == NAMED or self.watch is not None or bool(self.state_object)

    @property
    def takes_state(self) -> bool:
        """Must its state be pickled at each submit?"""
        return self.template.form != NAMED and self.watch is None and self.state is None


class Packed(NamedTuple):
    """A call's pickles, and what they refer to."""

    data: bytes
    buffers: list[memoryview]
    names: Sequence[str]
    codes: Sequence[named.Code]
    state: Pickled | None = None
    """A large one, which travels as an object."""

    def payload(self, store: serialize.Store | None = None) -> serialize.Payload:
        return serialize.join(self.data, self.buffers, store)

    def is_same(self, other: Packed) -> bool:
        """Are these pickles of equal values?"""
        states = self.state and self.state.digest(), other.state and other.state.digest()
        return self.data == other.data and self.buffers == other.buffers and states[0] == states[1]


def _packed(pickled: Pickled, state: Pickled | None, is_inline: bool = False) -> Packed:
    if state is None:
        return Packed(pickled.data, pickled.buffers, pickled.names, pickled.codes)
    names = sorted({*state.names, *pickled.names})
    codes = list({id(code[1]): code for code in (*state.codes, *pickled.codes)}.values())
    if is_inline:
        return Packed(state.data + pickled.data, [*state.buffers, *pickled.buffers], names, codes)
    return Packed(pickled.data, pickled.buffers, names, codes)


class _Record:
    """What calls of one template, with such arguments, reach; and the FUNCTION objects made of that, by state."""

    __slots__ = (
        "components", "fields", "functions", "generation", "looked", "needs", "numbers", "script", "watch"
    )  # fmt: skip

    def __init__(self) -> None:
        self.watch = byvalue.Watch()
        self.components: list[Component] = []
        self.numbers: list[int] = []  # of what these were when the record was made
        self.needs: list[int] = []
        self.fields: tuple[Any, ...] = ()
        self.functions: dict[tuple[int, bool], int] = {}
        self.looked = self.generation = 0
        self.script = 0


class FunctionTable:
    """The functions of one session. Its owner holds a lock around every call.

    The lock must be reentrant: pickling runs code of the user's, which may submit.
    """

    def __init__(self, objects: ObjectTable | None = None) -> None:
        self._objects = objects = ObjectTable() if objects is None else objects
        objects.on_forgotten.append(self._on_forgotten)
        self._known: dict[int, tuple[Any, Prepared]] = {}  # by id: a (weak) reference, and its form
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._records: dict[tuple[Any, ...], _Record] = {}  # oldest first
        self._definitions: dict[str, Definition] = {}
        self._versions: dict[tuple[str, str], tuple[Any, int]] = {}  # of constants
        self._components: dict[tuple[Any, ...], Component] = {}
        self._script = 0
        self._script_seen: dict[str, Any] = {}
        self._looks = 1
        self._shell = environment.ipython_shell()
        self._cell: Any = None if self._shell is None else self._shell.execution_count
        self._generation = 0  # of environments
        self._keys: dict[tuple[int, bytes], FunctionKey] = {}  # of functions whose calls are recorded
        self._warned: set[str] = set()
        self._states: dict[bytes, int] = {}  # large ones: numbers by digest
        self._sizes: dict[bytes, int] = {}  # of these
        self._states_gone: deque[bytes] = deque()  # whose holders are gone, oldest first; any thread
        self._lingering: deque[bytes] = deque()
        self._looked_at: Sequence[Component] = ()  # by the last submit

    # --- one function ---

    def prepare(self, function: Any, mode: int = ONE) -> Prepared:
        """How a function travels. Raises NotPicklable; TypeError for what cannot be called."""
        if mode == ONE:
            known = self._known.get(id(function))
            if known is not None and known[0]() is function and self._is_valid(known[1]):
                return known[1]
        form = templates.form_of(function)
        try:
            template = self._template(function, form)
        except byvalue.Unpicklable as failure:
            raise serialize.refusal_of_function(function, failure) from failure.__cause__
        prepared = Prepared(template, mode)
        if form == OBJECT:
            return prepared
        if form == LOCAL:
            self._fix_state(function, prepared)
        elif (name := script.name_of(function)) is not None:
            prepared.named_as = name, script.namespace().get(name)
        if mode == ONE:
            self._remember(function, prepared)
        return prepared

    def _is_valid(self, prepared: Prepared) -> bool:
        """Does the function still travel in this way?"""
        if prepared.watch is not None:
            return prepared.watch.is_current()
        named_as = prepared.named_as
        return named_as is None or script.namespace().get(named_as[0]) is named_as[1]

    def freeze(self, function: Any, mode: int) -> Prepared:
        """For `map`: its state is taken now, once, and all that calls reach is looked at."""
        self.refresh()
        prepared = self.prepare(function, mode)
        if prepared.takes_state:
            other = Prepared(prepared.template, mode)
            other.state = self._pickle_state(function, prepared.template.form)
            if other.state.size > INLINE:
                other.state_object = self._state_object(function, other.state)
            return other
        return prepared

    def pickle(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prepared: Prepared
    ) -> Packed:
        """The arguments of a call, with what of the function's state travels with them. Needs no lock.

        Raises NotPicklable.
        """
        if prepared.takes_state:
            state = templates.state_of(function, prepared.template.form)
            pickled = serialize.pickle_with_state(state, args, kwargs, function)
            end, buffers = pickled.ends[0]
            if end + sum(buffer.nbytes for buffer in pickled.buffers[:buffers]) <= INLINE:
                return Packed(pickled.data, pickled.buffers, pickled.names, pickled.codes)
            large = self._pickle_state(function, prepared.template.form)
            pickled = serialize.pickle_call(args, kwargs, function)
            return _packed(pickled, large)._replace(data=pickled.data, buffers=pickled.buffers, state=large)
        frozen = prepared.state
        pickled = serialize.pickle_call(args, kwargs, function, frozen and not prepared.state_object and frozen.memo)
        return _packed(pickled, frozen, is_inline=not prepared.state_object)

    def _pickle_state(self, function: Any, form: int) -> Pickled:
        try:
            return Pickled((templates.state_of(function, form),))
        except byvalue.Unpicklable as failure:
            raise serialize.refusal_of_function(function, failure) from failure.__cause__

    def _fix_state(self, function: Any, prepared: Prepared) -> None:
        """If a local function holds only what cannot change, pickle that once."""
        if not all(constants.is_constant(part) for _, part in constants.parts_of(function)):
            return
        watch = byvalue.Watch()
        watch.add_function(function, has_names=False)
        if templates.state_of(function, LOCAL) is not None:
            state = self._pickle_state(function, LOCAL)
            prepared.state = state
            prepared.state_object = self._state_object(function, state)
        prepared.watch = watch

    def _remember(self, function: Any, prepared: Prepared) -> None:
        key = id(function)
        if len(self._known) >= KNOWN:
            self._known.pop(next(iter(self._known)), None)
        known = self._known
        try:
            reference: Any = weakref.ref(function, lambda _: known.pop(key, None))
        except TypeError:
            reference = lambda: function  # noqa: E731
        known[key] = reference, prepared

    def _template(self, function: Any, form: int) -> Template:
        if form == OBJECT:
            own = templates.own_function(function)
            key: tuple[Any, ...] = (form, templates.label_of(function), own and own.__code__)
            known = self._templates.get(key)
            if known is not None:
                return known
        template = templates.template_of(function, form)
        if form != OBJECT:
            key = form, template.payload
            known = self._templates.get(key)
            if known is not None:
                return known
        if len(self._templates) >= KNOWN:
            self._templates.pop(next(iter(self._templates)))
        self._templates[key] = template
        return template

    # --- what a job names ---

    def number_of(
        self,
        function: Any,
        prepared: Prepared,
        names: Sequence[str] = (),
        codes: Sequence[named.Code] = (),
        state: Pickled | None = None,
    ) -> int:
        """The number of the FUNCTION object for a call. `names`, `codes`: what its arguments and state refer to;
        `state`: a large one, which travels as an object. Raises NotPicklable."""
        key: Any = None
        record = prepared.record
        if names or codes or record is None:
            key = prepared.template, prepared.mode, tuple(names), tuple([id(code) for _, code in codes])
            record = self._records.get(key)
        if record is None or not self._is_up_to_date(record):
            record = self._make(prepared.template, names, codes, function, record)
            key = key or (prepared.template, prepared.mode, (), ())
            self._records.pop(key, None)
            if len(self._records) >= KNOWN:
                self._records.pop(next(iter(self._records)))
            self._records[key] = record
        if not (names or codes):
            prepared.record = record
        held = prepared.state_object if state is None else self._state_object(function, state)
        is_fixed = prepared.watch is not None
        number = record.functions.get((held, is_fixed))
        if number is None:
            is_inline = prepared.template.form != NAMED and not held and not is_fixed
            fields = prepared.mode, is_inline, held, is_fixed, *record.fields
            needs = [*record.needs, held] if held else record.needs
            number = self._object(m.FUNCTION, needs, pickle.dumps(fields, 5))
            record.functions[held, is_fixed] = number
        if self._states_gone:
            self._forget_states()
        if record.components:
            self._looked_at = record.components
            if not prepared.takes_state:
                self._let_go()
        return number

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, Any]:
        """What a job of one call names, and its payload. Raises NotPicklable."""
        prepared = self.prepare(function)
        if prepared.is_bare and serialize.is_plain(args, kwargs):
            return self.number_of(function, prepared), serialize.dump_call(args, kwargs)
        packed = self.pickle(function, args, kwargs, prepared)
        number = self.number_of(function, prepared, packed.names, packed.codes, packed.state)
        packed = self.share(function, args, kwargs, prepared, packed)
        return number, packed.payload()

    def share(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prepared: Prepared, packed: Packed
    ) -> Packed:
        """Where its small state holds objects that are values of global names, too: have it refer to these.

        To be called after `number_of`, which has looked at these.
        """
        if not self._looked_at:
            return packed
        shared = {}
        if prepared.takes_state and packed.state is None:
            state = templates.state_of(function, prepared.template.form)
            shared = shared_objects(self._looked_at, Pickled((state,)))
        self._let_go()
        if not shared:
            return packed
        pickled = Pickled((state,), persistent_id=lambda thing: shared.get(id(thing)))
        call = serialize.pickle_call(args, kwargs, function, pickled.memo)
        return _packed(call, pickled, is_inline=True)

    def _let_go(self) -> None:
        """Of what was looked at: nothing is kept alive that its owner drops."""
        for component in self._looked_at:
            component.seen = None
        self._looked_at = ()

    def key_of(self, function: Any, prepared: Prepared | None = None) -> FunctionKey:
        """The key with which calls are recorded, taken of the same state as what travels.

        Raises NotPicklable; UnstableKey if the state changes all the time.
        """
        prepared = self.prepare(function) if prepared is None else prepared
        for _ in range(KEY_ATTEMPTS):
            state = self._identify(function, prepared)
            key = self._keys.get(state)
            if key is not None:
                return key
            self.refresh()
            state = self._identify(function, prepared)
            key = callkey.of_function(self._thaw(function, prepared))
            self.refresh()
            if self._identify(function, prepared) == state:
                if len(self._keys) >= KNOWN:
                    del self._keys[next(iter(self._keys))]
                self._keys[state] = key
                return key
        raise UnstableKey(f"{naming.function_name(function)} or what it refers to changes while it is looked at")

    def _identify(self, function: Any, prepared: Prepared) -> tuple[int, bytes]:
        """What stands for the function and all that it reaches, as it is now."""
        state = prepared.state
        if prepared.takes_state:
            state = self._pickle_state(function, prepared.template.form)
        if state is None:
            return self.number_of(function, prepared), b""
        return self.number_of(function, prepared, state.names, state.codes), state.digest()

    def _thaw(self, function: Any, prepared: Prepared) -> Any:
        """The function with the state that was taken for `map`."""
        if prepared.state is None or prepared.watch is not None:
            return function
        (state,) = serialize.load_parts(prepared.state.payload(), 1)
        return templates.Callee(prepared.template.payload).fresh(state)

    def refresh(self) -> None:
        """At the next submit of each function, look at all that it reaches."""
        self._looks += 1

    def renew_environment(self, reason: str) -> None:
        """What is submitted from now on runs in fresh runners."""
        self._objects.renew_environment(reason)
        self._generation += 1

    def _have_changed(self, record: _Record) -> bool:
        """Look at what can change in place, as far as the time allows."""
        components = record.components
        if record.looked != self._looks or sum(each.seconds for each in components) < LOOK_SECONDS:
            return any([each.has_changed() for each in components])
        has_changed = False
        for each in components:
            if each.seconds < LOOK_SECONDS / len(components):
                has_changed = each.has_changed() or has_changed
            elif time.monotonic() - each.looked_at > each.seconds / LOOK_SHARE:
                has_changed = each.has_changed() or has_changed
            else:
                self._warn_of(each)
        return has_changed

    def _warn_of(self, component: Component) -> None:
        label = component.places[0].label
        if label in self._warned:
            return
        self._warned.add(label)
        warnings.warn(
            f"{label} has {component.size / 1e6:.1f} MB, and a look whether it has changed in place takes "
            f"{component.seconds * 1000:.0f} ms: too long for each submit(). A change in place may be seen late. Pass it as an "
            "argument, bind the name anew after a change, or call executor.refresh() then",
            UnseenChanges,
            stacklevel=2,
        )

    # --- making a record ---

    def _is_up_to_date(self, record: _Record) -> bool:
        """Is all that it was made from still so?"""
        if self._shell is not None and self._shell.execution_count != self._cell:
            self._cell = self._shell.execution_count
            self.refresh()
        if not record.watch.is_current() or record.generation != self._generation:
            return False
        components = record.components
        if components and (
            self._have_changed(record) or [each.number for each in components] != record.numbers
        ):
            return False
        if record.looked != self._looks:
            if self._script_object() is not record.script:
                return False
            record.looked = self._looks
        return True

    def _make(
        self, template: Template, names: Any, codes: Any, function: Any, before: _Record | None
    ) -> _Record:
        record = _Record()
        record.looked, record.generation = self._looks, self._generation
        reach = Reach(self._definition_of)
        try:
            reach.add([*template.names, *names], [*template.codes, *codes])
            constants_data = self._follow(reach, template, function, record)
        except byvalue.Unpicklable as failure:
            raise serialize.refusal_of_function(function, failure) from failure.__cause__
        record.watch = reach.watch
        record.script = self._script_object()
        head = [self._object(m.VALUE, (), template.payload), self._objects.environment, record.script]
        definitions = [self._object(m.VALUE, (), dump_definition(each)) for each in reach.definitions.values()]
        components = [each.number for each in self._grouped]
        record.needs = [*head, *definitions, *components]
        record.components = [each for each in self._grouped if not each.is_fixed]
        record.numbers = [each.number for each in record.components]
        record.fields = (
            constants_data, list(reach.lost.items()), sorted(reach.modules), head[0], record.script, definitions, components,
        )  # fmt: skip
        if before is not None and before.fields == record.fields:
            record.functions = before.functions
        return record

    def _follow(self, reach: Reach, template: Template, function: Any, record: _Record) -> bytes:
        """Pickle what is reached until nothing new is. Returns the constants' pickle."""
        pickled: dict[Any, Pickled] = {}
        data, count = b"", -1
        while True:
            if len(reach.constants) != count:
                count = len(reach.constants)
                file = io.BytesIO()
                pickler = named.NamedPickler(file)
                rows = [(*key, self._version_of(key, value), value) for key, value in reach.constants.items()]
                byvalue.run(pickler, rows)
                data = file.getvalue()
                reach.add(pickler.names, pickler.codes.values())
            for key in [key for key in reach.places if key not in pickled and key not in reach.lost]:
                place = reach.places[key]
                try:
                    each = pickled[key] = pickle_places([place])
                except byvalue.Unpicklable as failure:
                    self._lose(reach, place, template, function, failure)
                    continue
                reach.add(each.names, each.codes)
            if len(reach.constants) == count and reach.places.keys() <= pickled.keys() | reach.lost.keys():
                break
        places = [reach.places[key] for key in pickled]
        self._grouped = [
            self._component([places[index] for index in indices], [pickled[places[index].key] for index in indices])
            for indices in group(places, list(pickled.values()))
        ]
        return data

    def _lose(
        self, reach: Reach, place: Place, template: Template, function: Any, failure: byvalue.Unpicklable
    ) -> None:
        """A value cannot be pickled: who reads it in a job learns why. Raises if the function itself reads it."""
        kind, holder, name = place.key
        own = templates.own_function(function)
        is_own = kind == "global" and name in template.reads and own is not None and named.key_of(own.__globals__) == holder
        if is_own or (kind in ("cell", "default", "keyword") and own is not None and holder[0] == own.__name__):
            raise failure
        reach.lost[place.key] = _reason(failure)

    def _component(self, places: list[Place], pickled: list[Pickled]) -> Component:
        key = tuple(place.key for place in places)
        whole = pickled[0] if len(places) == 1 else pickle_places(places)
        known = self._components.get(key)
        if known is None:
            known = self._components[key] = Component(places, whole)
        elif known.digest != whole.digest():
            if known.number and known.size > SMALL:
                self._objects.forget([known.number])
            known.take(places, whole)
            known.number = 0
        known.seen = whole
        known.is_fixed = all(constants.is_constant(place.get()) for place in places)
        if not known.number:
            known.number = self._object(m.VALUE, (), whole.payload(), known.digest)
        return known

    def _version_of(self, key: tuple[str, str], value: Any) -> int:
        """A number for a constant's value: another one whenever the name is bound to another value."""
        known = self._versions.get(key)
        if known is not None:
            before, version = known
            if before is value or (type(value) in _COMPARED and type(before) is type(value) and before == value):
                return version
        version = next(_version_numbers)
        self._versions[key] = value, version
        return version

    def _definition_of(self, name: str, thing: Any) -> Definition:
        known = self._definitions.get(name)
        if known is None or known.thing is not thing:
            known = self._definitions[name] = Definition(name, thing)
        elif not known.watch.is_current():
            known.renew()
        return known

    # --- the script ---

    def _script_object(self) -> int:
        """All that the script defines, whether a call reaches it or not: the names are there in the runner."""
        names = script.namespace()
        seen = {
            name: value if script.can_be_named(value) or type(value) is ModuleType else type(value)
            for name, value in list(names.items())
            if not name.startswith("__")
        }
        before = self._script_seen
        if self._script and len(seen) == len(before):
            if all(before.get(name) is value for name, value in seen.items()):
                return self._script
        rows, others = [], {}
        for name, thing in seen.items():
            if not script.can_be_named(names.get(name)) or script.name_of(thing) != name:
                others[name] = _how_to_import(names.get(name))
                continue
            try:
                definition = self._definition_of(name, thing)
            except byvalue.Unpicklable as failure:
                others[name] = "lost", _reason(failure)
            else:
                rows.append((dump_definition(definition), _small_values(definition)))
        self._script_seen = seen
        self._script = self._object(m.VALUE, (), pickle.dumps((script.origin(), rows, others), 5))
        return self._script

    # --- objects ---

    def _object(self, kind: int, needs: Sequence[int], payload: Any, digest: bytes | None = None) -> int:
        """One object for the same content."""
        if digest is None:
            digest = xxhash.xxh3_128_digest(payload)
        return self._objects.add(kind, needs, payload, digest + repr((kind, *needs)).encode())

    def _on_forgotten(self, numbers: set[int]) -> None:
        """These objects are gone: what refers to them is made anew, if it is needed again."""
        for record in self._records.values():
            if numbers.intersection(record.needs):
                record.generation = -1
            for key, number in list(record.functions.items()):
                if number in numbers or key[0] in numbers:
                    del record.functions[key]
        for component in self._components.values():
            if component.number in numbers:
                component.number = 0
        for digest in [digest for digest, number in self._states.items() if number in numbers]:
            del self._states[digest], self._sizes[digest]
        self._known = {
            key: known for key, known in self._known.items() if known[1].state_object not in numbers
        }
        if self._script in numbers:
            self._script = 0

    def _state_object(self, function: Any, state: Pickled) -> int:
        digest = state.digest()
        number = self._states.get(digest)
        if number is None:
            number = self._states[digest] = self._object(m.VALUE, (), state.payload(), digest)
            self._sizes[digest] = state.size
            owner = getattr(function, "__self__", function)
            try:
                weakref.finalize(owner, self._states_gone.append, digest).atexit = False
            except TypeError:
                self._states_gone.append(digest)
        return number

    def _forget_states(self) -> None:
        """Drop large states whose holders are gone, but for the last ones."""
        lingering = self._lingering
        while self._states_gone:
            digest = self._states_gone.popleft()
            if digest in lingering:
                lingering.remove(digest)
            if digest in self._states:
                lingering.append(digest)
        while len(lingering) > LINGERING_STATES or (
            len(lingering) > 1 and sum(self._sizes.get(digest, 0) for digest in lingering) > LINGERING_BYTES
        ):
            number = self._states.pop(lingering.popleft(), None)
            if number is not None:
                self._objects.forget([number])


_version_numbers = itertools.count(1)
_TYPES = frozenset({types.GenericAlias, types.UnionType, typing.TypeVar, typing.ParamSpec, type(typing.Union[int, str])})
_COMPARED = frozenset({int, float, complex, bool, str, type(None)})


def _small_values(definition: Definition) -> list[Any]:
    """What a definition holds that can change, as it is now: small values that pickle finds by name."""
    found = []
    for place in definition.places:
        with contextlib.suppress(Exception):
            pickled = pickle_places([place])
            if pickled.size <= SMALL and not pickled.buffers:
                found.append((place.key, pickled.data))
    return found


def _how_to_import(value: Any) -> tuple[str, ...]:
    """What a runner does when somebody asks for a name of the script that the call does not reach."""
    if type(value) is ModuleType:
        return "module", value.__name__
    if script.can_be_named(value) and not byvalue.travels_by_value(value):
        return "attribute", value.__module__, value.__qualname__
    name = getattr(value, "_name", None)
    if type(value).__module__ == "typing" and type(name) is str and getattr(typing, name, None) is value:
        return "attribute", "typing", name
    if type(value) in _TYPES and constants.is_constant(value):
        with contextlib.suppress(byvalue.Unpicklable):
            return "pickle", byvalue.dumps(value)
    if type(value) in _COMPARED and len(repr(value)) < 1000:
        return "value", value
    return "unsent", type(value).__qualname__


def _reason(failure: byvalue.Unpicklable) -> str:
    return f"{type(failure.__cause__).__name__}: {failure.__cause__}"
