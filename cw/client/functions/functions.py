"""Functions of a session's calls, as numbered objects: each is sent once, and anew when it has changed.

    prepare(f)      the form in which f travels: `cw.payloads.templates`. State (what obj.m or a closure holds) is
                    pickled at each submit, and each call gets a fresh copy: a small state travels with the arguments,
                    a large one as an object, which is found again by its digest
    number_of(...)  the FUNCTION object that the job names; it needs, in this order:
                    its template | the environment | the script | definitions | components of values | a large state
                                             all definitions'    `---- what the call reaches ---'

All that the call reaches is checked for changes: names by identity at each submit; values that can change in place by
their pickle, while that is cheap (LOOK_SECONDS, LOOK_SHARE), and in any case at each `map` and notebook cell.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from cw.client.functions.components import shared_objects
from cw.client.functions.keys import KeyTable
from cw.client.functions.prepared import Packed, Prepared, pack
from cw.client.functions.records import Record, RecordMaker
from cw.client.functions.states import StateTable
from cw.client.session.objects import ObjectTable
from cw.net import messages as m
from cw.payloads import (
    byvalue,
    classes,
    constants,
    generators,
    objects,
    script,
    serialize,
    templates,
)
from cw.payloads.objects import ONE
from cw.payloads.pickled import Pickled
from cw.payloads.templates import LOCAL, NAMED, OBJECT, Template
from cw.payloads.watch import Watch
from cw.store.callkey import FunctionKey

KNOWN = 1024
"""Number of functions, and of records, that are remembered. More: memory. Fewer: a function that is submitted again
after that many others is pickled again."""

INLINE = 8 * 1024
"""Size of a state (bytes) up to which it travels with each call. Larger: the same bytes travel often. Smaller: a state
that differs from call to call makes an object each time."""

MEMO_BYTES = 64 * 1024
"""Size of a call (bytes) up to which its pickler's memo is searched for objects of its state. Larger: a copy of the
memo costs more than another pickle of the state. Smaller: the state is pickled again."""

_NONE: dict[Any, Any] = {}


class First(Protocol):
    """A call that runs in each runner before its first job: `cw.client.session.initializer`."""

    prepared: Prepared
    """Its function."""

    def numbers(self, generation: int) -> tuple[int, int]:
        """Return the numbers of its FUNCTION object and of its arguments. `generation`: that of all records now."""


class FunctionTable:
    """The functions of one session. Its owner holds a lock around every call.

    The lock must be reentrant: pickling runs user code, which may submit.
    """

    def __init__(self, table: ObjectTable | None = None) -> None:
        self.first: First | None = None
        """The call of the session's initializer."""
        self._objects = table = ObjectTable() if table is None else table
        table.on_forgotten.append(self._on_forgotten)
        # By id, or by id and mode: a (weak) reference, and its form.
        self._known: dict[Any, tuple[Any, Prepared]] = {}
        # Answers of `known_number`, by id and the names in arguments: the function, what to watch, the number.
        self._quick: dict[int, dict[Sequence[str], tuple[Any, Watch, Watch | None, int, int]]] = {}
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._records: dict[tuple[Any, ...], Record] = {}  # oldest first
        self.keys = KeyTable(self)
        self._warned: dict[Any, Any] = {}  # random generators that the user was warned of
        self.maker = RecordMaker(table)
        """Makes what functions reach."""
        self._states = StateTable(
            table, lambda payload, digest: self.maker.object_of(m.VALUE, (), payload, digest)
        )

    # --- one function ---

    def known_number(self, function: Any, names: Sequence[str] = (), prepared: Prepared | None = None) -> int:
        """Return the number for a call if nothing has changed since the last; 0: see `number_of`. `names`: names of the
        script that its arguments refer to. `prepared`: the form that the function must still have."""
        known = self._quick.get(id(function), _NONE).get(names)
        if known is None:
            return 0
        if prepared is not None:
            remembered = self._known.get(id(function))
            if remembered is None or remembered[1] is not prepared:
                return 0
        reference, watch, own_watch, epoch, number = known
        if reference() is not function or epoch != self.maker.epoch or not watch.is_current():
            return 0
        return number if own_watch is None or own_watch.is_current() else 0

    def dump_if_known(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        store: serialize.StoreBuffer | None = None,
        label: int = 0,
        met: list[Any] | None = None,
    ) -> tuple[serialize.Payload | None, Sequence[str]]:
        """Return the payload of a call for which `known_number` may have an answer, and its names. None: see `pickle`.
        `met` receives the futures in the arguments.

        Needs no lock.
        """
        found = serialize.dump_call_by_name(args, kwargs, met) if id(function) in self._quick else None
        if found is None:
            return None, ()
        data, buffers, names = found
        if buffers:
            return serialize.join(data, buffers, store, label), names
        return data + label.to_bytes(serialize.LABEL, "little"), names

    def prepare(self, function: Any, mode: int = ONE) -> Prepared:
        """Return the form in which a function travels. Raises NotPicklable; TypeError if it cannot be called."""
        key = id(function) if mode == ONE else (id(function), mode)
        known = self._known.get(key)
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
        if mode == ONE or form == NAMED:
            self._remember(function, prepared, key)
        return prepared

    def _is_valid(self, prepared: Prepared) -> bool:
        """True if the function still travels in this form."""
        if prepared.watch is not None:
            return prepared.watch.is_current()
        named_as = prepared.named_as
        return named_as is None or script.namespace().get(named_as[0]) is named_as[1]

    def freeze(self, function: Any, mode: int) -> Prepared:
        """Prepare a function for `map`: take its state once, now, and check all that calls reach."""
        self.refresh()
        prepared = self.prepare(function, mode)
        if prepared.takes_state:
            other = Prepared(prepared.template, mode)
            state = other.state = self.pickle_state(function, prepared.template.form)
            record = self._record_for(function, prepared, state.names, state.codes)
            shared = self._find_shared(record, function, prepared, state.memo)
            if shared:
                memo = state.memo.copy()
                other.references = {reference: memo[identity][1] for identity, reference in shared.items()}
                other.needs = tuple(sorted({number for number, _ in shared.values()}))
                state = other.state = self.pickle_state(function, prepared.template.form, shared)
            if state.size > INLINE:
                other.state_object = self._states.number_of(function, state)
            return other
        return prepared

    def pickle(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        prepared: Prepared,
        met: list[Any] | None = None,
    ) -> Packed:
        """Pickle the arguments of a call, and the part of the function's state that travels with them. Needs no lock.

        `met` receives the futures among the arguments; None: they are refused. Raises NotPicklable.
        """
        if prepared.takes_state:
            state = templates.state_of(function, prepared.template.form)
            pickled = serialize.pickle_with_state(state, args, kwargs, function, met)
            end, buffers = pickled.ends[0]
            if generators.may_hold_one(pickled.data[:end]):
                generators.warn_of(function, self._warned)
            if end + sum(buffer.nbytes for buffer in pickled.buffers[:buffers]) <= INLINE:
                memo = pickled.memo if pickled.size <= MEMO_BYTES else None
                return Packed(pickled.data, pickled.buffers, pickled.names, pickled.codes, None, memo)
            large = self.pickle_state(function, prepared.template.form)
            pickled = serialize.pickle_call(args, kwargs, function, met=met)
            return pack(pickled, large)._replace(data=pickled.data, buffers=pickled.buffers, state=large)
        frozen = prepared.state
        found = serialize.dump_call_by_name(args, kwargs, met) if frozen is None else None
        if found is not None:
            return Packed(*found)
        memo = None if frozen is None or prepared.state_object else frozen.memo
        pickled = serialize.pickle_call(args, kwargs, function, memo, is_by_value=frozen is None, met=met)
        return pack(pickled, frozen, is_inline=not prepared.state_object)

    def pickle_state(self, function: Any, form: int, shared: Any = None) -> Pickled:
        """Pickle a function's state. `shared`: references in place of objects, by the objects' id."""
        refer = None if not shared else lambda thing: shared.get(id(thing))
        try:
            pickled = Pickled((templates.state_of(function, form),), persistent_id=refer)
        except byvalue.Unpicklable as failure:
            raise serialize.refusal_of_function(function, failure) from failure.__cause__
        if generators.may_hold_one(pickled.data):
            generators.warn_of(function, self._warned)
        return pickled

    def _fix_state(self, function: Any, prepared: Prepared) -> None:
        """Pickle the state of a local function once if it cannot change."""
        if not all(constants.is_constant(part) for _, part in constants.parts_of(function)):
            return
        watch = Watch()
        watch.add_function(function, has_names=False)
        if templates.state_of(function, LOCAL) is not None:
            state = self.pickle_state(function, LOCAL)
            prepared.state = state
            prepared.state_object = self._states.number_of(function, state)
        prepared.watch = watch

    def _remember(self, function: Any, prepared: Prepared, key: Any) -> None:
        if len(self._known) >= KNOWN:
            oldest = next(iter(self._known))
            self._known.pop(oldest, None)
            self._quick.pop(oldest, None)
        known, quick = self._known, self._quick

        def forget(_: Any) -> None:
            known.pop(key, None)
            quick.pop(key, None)

        try:
            reference: Any = weakref.ref(function, forget)
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

    def number_of(self, function: Any, prepared: Prepared, names: Sequence[str] = (), codes: Any = ()) -> int:
        """Return the number of the FUNCTION object for a call. `names`, `codes`: what its arguments refer to.

        Raises NotPicklable.
        """
        if prepared.quick is not None and not names and not codes:
            watch, own_watch, epoch, number = prepared.quick
            is_current = epoch == self.maker.epoch and watch.is_current()
            if is_current and (own_watch is None or own_watch.is_current()):
                return number
        record = self._record_for(function, prepared, names, codes)
        self._let_go(record)
        number = self._number_in(record, prepared, prepared.state_object)
        self._note_quick(function, prepared, names, codes, record, number)
        return number

    def _note_quick(
        self, function: Any, prepared: Prepared, names: Sequence[str], codes: Any, record: Record, number: int
    ) -> None:
        """Remember the number for the next such call, if only bindings must be checked then."""
        if codes or record.components or record.lost or not prepared.is_bare or self.maker.shell is not None:
            return
        if not names:
            prepared.quick = record.watch, prepared.watch, self.maker.epoch, number
        known = self._known.get(id(function))
        if known is not None and known[1] is prepared:
            quick = self._quick.setdefault(id(function), {})
            if len(quick) >= KNOWN:
                quick.clear()
            quick[tuple(names)] = known[0], record.watch, prepared.watch, self.maker.epoch, number

    def place(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prepared: Prepared, packed: Packed
    ) -> tuple[int, Packed]:
        """Return the FUNCTION object's number for a pickled call, and its pickles. Objects of the function's state that
        are also values of global names become references to these."""
        record = self._record_for(function, prepared, packed.names, packed.codes)
        large = packed.state
        memo = packed.memo if large is None else large.memo
        shared = self._find_shared(record, function, prepared, memo, is_of_state=large is not None)
        if shared:
            state = self.pickle_state(function, prepared.template.form, shared)
            is_inline = packed.state is None
            met: list[Any] = []
            call = serialize.pickle_call(args, kwargs, function, state.memo if is_inline else None, met=met)
            packed = pack(call, state, is_inline)._replace(met=met)
            if not is_inline:
                packed = packed._replace(state=state)
        held = prepared.state_object
        if packed.state is not None:
            held = self._states.number_of(function, packed.state)
        number = self._number_in(record, prepared, held)
        self._note_quick(function, prepared, packed.names, packed.codes, record, number)
        return number, packed

    def _record_for(self, function: Any, prepared: Prepared, names: Sequence[str], codes: Any) -> Record:
        has_own = bool(names or codes)
        state = prepared.state
        if state is not None and (state.names or state.codes):
            names = sorted({*state.names, *names})
            codes = list({id(code[1]): code for code in (*state.codes, *codes)}.values())
        record = prepared.record
        key: Any = None
        if has_own or record is None:
            key = self._key_of_record(prepared, names, codes)
            record = self._records.get(key)
        if record is None or not self.maker.is_up_to_date(record):
            record = self.maker.make(prepared.template, names, codes, function, record)
            if key is None:
                key = self._key_of_record(prepared, names, codes)
            self._records.pop(key, None)
            if len(self._records) >= KNOWN:
                self._records.pop(next(iter(self._records)))
            self._records[key] = record
            if any(map(generators.may_hold_one, record.pickles)):
                generators.warn_of(function, self._warned)
            record.pickles = ()
        if not has_own:
            prepared.record = record
        return record

    def _key_of_record(self, prepared: Prepared, names: Sequence[str], codes: Any) -> tuple[Any, ...]:
        """Return the key of a record, with the identity of classes: nothing keeps them alive, so an id may recur."""
        things = [id(thing) if names is not None else classes.identity_of(thing) for names, thing in codes]
        return prepared.template, prepared.mode, tuple(names), tuple(things)

    def _number_in(self, record: Record, prepared: Prepared, held: int) -> int:
        """Return the number of the FUNCTION object. `held`: the number of a state that is an object, or 0."""
        is_fixed = prepared.watch is not None
        number = record.functions.get((held, is_fixed, prepared.needs))
        if number is None:
            is_inline = prepared.template.form != NAMED and not held and not is_fixed
            first: tuple[int, ...] = ()
            if self.first is not None and self.first.prepared is not prepared:
                first = self.first.numbers(record.generation)
            made = objects.Function(prepared.mode, is_inline, held, is_fixed, first, record.reached)
            needs = [*record.needs, *prepared.needs, *([held] if held else []), *first]
            number = self.maker.object_of(m.FUNCTION, needs, objects.dump_function(made))
            record.functions[held, is_fixed, prepared.needs] = number
            self._objects.names[number] = prepared.template.name
        return number

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, Any]:
        """Return the number that a job of one call names, and its payload. Raises NotPicklable."""
        plain = serialize.dump_plain(args, kwargs)
        payload, names = (plain, ()) if plain is not None else self.dump_if_known(function, args, kwargs)
        number = 0 if payload is None else self.known_number(function, names)
        if number:
            return number, payload
        prepared = self.prepare(function)
        if prepared.is_bare and plain is not None:
            return self.number_of(function, prepared), plain
        packed = self.pickle(function, args, kwargs, prepared)
        number, packed = self.place(function, args, kwargs, prepared, packed)
        return number, packed.payload()

    def _find_shared(
        self, record: Record, function: Any, prepared: Prepared, memo: Any, is_of_state: bool = True
    ) -> dict[int, tuple[int, int]]:
        """Find objects of the state that are also values of global names, as these were just checked. `memo`: the memo
        of the state's pickle or, usually enough, of the whole call's."""
        shared: dict[int, tuple[int, int]] = {}
        if record.components and prepared.takes_state:
            if memo is not None:
                shared = shared_objects(record.components, memo.copy())
            if (shared and not is_of_state) or memo is None:
                state = templates.state_of(function, prepared.template.form)
                with contextlib.suppress(byvalue.Unpicklable):
                    shared = shared_objects(record.components, Pickled((state,)).memo.copy())
        self._let_go(record)
        return shared

    def _let_go(self, record: Record) -> None:
        """Drop checked values, so that none is kept alive that its owner drops."""
        for component in record.components:
            component.seen = None

    def key_of(self, function: Any, prepared: Prepared | None = None) -> FunctionKey:
        """Return the key under which calls are stored, made from the same state as travels.

        Raises NotPicklable; UnstableKey if the state changes all the time.
        """
        return self.keys.key_of(function, self.prepare(function) if prepared is None else prepared)

    def refresh(self) -> None:
        """Check all that a function reaches at its next submit."""
        self.maker.refresh()

    def renew_environment(self) -> None:
        """Run jobs that are submitted from now on in fresh runners."""
        self._objects.renew_environment()
        self.maker.renew()

    def set_settings(self, payload: bytes) -> None:
        """Set the settings of the user's modules for jobs submitted from now on (`settings.apply_settings`)."""
        self.maker.set_settings(payload)

    def _on_forgotten(self, numbers: set[int]) -> None:
        """Make whatever refers to these objects anew if it is needed again."""
        self.maker.on_forgotten(numbers)
        self._states.on_forgotten(numbers)
        for record in self._records.values():
            if numbers.intersection(record.needs):
                record.generation = -1
            for key, number in list(record.functions.items()):
                if number in numbers or key[0] in numbers:
                    del record.functions[key]
        for identity, known in list(self._known.items()):
            if known[1].state_object in numbers:
                self._known.pop(identity, None)
