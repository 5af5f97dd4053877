"""Templates: a function travels by its name, as code with a fresh state for each call, or as an object (all state).

json.dumps, f of the script     NAMED    the runner's module, or script, has it
lambda, local function          LOCAL    its code travels once; cells, defaults and attributes are its state
obj.m, partial(f, 3), obj       OBJECT   pickled whole: its state

client   template_of(f) --> Template, sent once      state_of(f) --> pickled at each submit
runner   Callee(payload): fresh(state) gives the function for one call
"""

from __future__ import annotations

import functools
import io
import pickle
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    WrapperDescriptorType,
)
from typing import Any

from cw.errors import PayloadError
from cw.payloads import byvalue, code_names, constants, local_functions, named, pickling_errors, script
from cw.payloads.dispatchers import is_dispatcher
from cw.payloads.watch import MISSING, contents_of

NAMED, LOCAL, OBJECT = range(3)

_BY_NAME = (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)


class Template:
    """Part of a function that is the same for all its calls."""

    __slots__ = ("codes", "form", "name", "names", "payload", "reads")

    def __init__(self, form: int, name: str, blob: bytes = b"") -> None:
        self.form = form
        self.name = name
        self.payload = pickle.dumps((form, name, blob), 5)
        self.names: frozenset[str] = frozenset()  # names of the script that it refers to
        self.codes: tuple[named.Code, ...] = ()  # functions by value
        self.reads: frozenset[str] = frozenset()  # global names that the function itself reads


def form_of(function: Any) -> int:
    """Return the form of a function. Raises TypeError for what cannot be called."""
    kind = type(function)
    if kind is MethodType:
        return NAMED if byvalue.home_of_method(function) else OBJECT
    if script.can_be_named(function):
        if not byvalue.travels_by_value(function) or script.name_of(function) is not None:
            return NAMED
        return LOCAL if kind is FunctionType and not is_dispatcher(function) else OBJECT
    if kind is BuiltinFunctionType:
        is_free = constants.is_constant(function) or byvalue.home_of_method(function)
        return NAMED if is_free else OBJECT
    if not callable(function):
        raise TypeError(f"{kind.__name__!r} object is not callable")
    if kind in _BY_NAME or kind.__module__ == "numpy" and constants.is_constant(function):
        return NAMED
    return OBJECT


def template_of(function: Any, form: int) -> Template:
    """Make the template of a function. Raises `byvalue.Unpicklable`."""
    code_owner = own_function(function)
    if form == OBJECT:
        template = Template(form, label_of(function))
    else:
        file = io.BytesIO()
        pickler = named.NamedPickler(file, is_whole=True)
        if form == NAMED:
            byvalue.run(pickler, function)
            template = Template(form, pickling_errors.function_name(function), file.getvalue())
            template.names = frozenset(pickler.names)
        else:
            called = function.__name__, function.__qualname__, function.__module__
            namespace = local_functions.key_of(function.__globals__)
            make = local_functions.dump_code(function.__code__), called, namespace
            fixed = (
                function.__doc__,
                named.dump_annotations(function),
                getattr(function, "__type_params__", ()),
            )
            byvalue.run(pickler, (make, fixed))
            template = Template(form, pickling_errors.function_name(function), file.getvalue())
            template.codes = ((function.__globals__, function.__code__),)
    if code_owner is not None:
        template.reads = frozenset(code_names.global_names(code_owner.__code__))
    return template


def label_of(function: Any) -> str:
    """Return the name of an OBJECT, without its state: 'Model.step'."""
    if isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__func__", function)
    name = getattr(owner, "__qualname__", None)
    return name if type(name) is str else type(owner).__qualname__


def own_function(function: Any) -> FunctionType | None:
    """Return the function written in Python that a call enters."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if type(function) is script.CACHED_FUNCTION:
        function = function.__wrapped__
    if type(function) is FunctionType:
        return function
    found = None if isinstance(function, type) else getattr(type(function), "__call__", None)  # noqa: B004
    return found if type(found) is FunctionType else None


def state_of(function: Any, form: int) -> Any:
    """Return the state that is pickled anew for each call; None: none."""
    if form == OBJECT:
        if type(function) is MethodType and getattr(function.__self__, function.__name__, None) != function:
            # pickle would look it up by this name, which is private (`self.__step`) or a lambda's
            return functools.partial(function.__func__, function.__self__)
        return function
    if form == NAMED:
        return None
    cells = function.__closure__ or ()
    contents = [contents_of(cell) for cell in cells]
    is_bound = [value is not MISSING for value in contents]
    if not all(is_bound):
        contents = [value if is_set else None for value, is_set in zip(contents, is_bound, strict=True)]
    # Captured functions may share variables with this one: then the variables travel, not only their contents.
    shared = cells if any(type(value) is FunctionType for value in contents) else None
    state = (
        function.__defaults__,
        function.__kwdefaults__,
        contents,
        is_bound,
        function.__dict__ or None,
        shared,
    )
    return None if state == (None, None, [], [], None, None) else state


def holds_functions(state: Any) -> bool:
    """True if the state of a LOCAL function may contain something that a call can change: a function's attributes."""
    defaults, kwdefaults, contents, *_ = state
    return any(map(script.can_be_named, (*(defaults or ()), *(kwdefaults or {}).values(), *contents)))


class Callee:
    """A template in a runner."""

    def __init__(self, payload: Any) -> None:
        """Load the template. Raises PayloadError."""
        try:
            self.form, self.name, self._blob = pickle.loads(payload)
        except Exception as error:
            raise PayloadError(f"the payload is not that of a function: {error}") from None
        self._parts: Any = None

    def function(self) -> Any:
        """Return a NAMED function, as its name is bound now. Raises whatever importing it raises."""
        function = pickle.loads(self._blob)
        if not callable(function):
            raise PayloadError(f"the payload is not that of a function but of a {type(function).__name__}")
        return function

    def fresh(self, state: Any) -> Any:
        """Return a LOCAL function with this state, used by it alone; or an OBJECT, which is its state."""
        if self.form == OBJECT:
            if not callable(state):
                raise PayloadError(f"the payload is not that of a function but of a {type(state).__name__}")
            return state
        if self._parts is None:
            make, (doc, notes, type_params) = pickle.loads(self._blob)
            self._parts = make, doc, local_functions.load_annotations(notes), type_params
        make, doc, notes, type_params = self._parts
        defaults, kwdefaults, contents, is_bound, attributes, cells = state or _NO_STATE
        if cells is None:
            cells = tuple(CellType() for _ in contents)
        code, called, namespace = make
        function = local_functions.make_function(code, called, namespace, cells, None)
        filling = defaults, kwdefaults, contents, is_bound, attributes or {}, doc, notes, type_params
        local_functions.set_function_state(function, filling)
        return function


_NO_STATE = (None, None, (), (), None, None)
