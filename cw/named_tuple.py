"""`typing.NamedTuple` whose classes are made in a fifth of the time, for the modules that a first job waits for.

    class Want(NamedTuple):         a class of as many fields, once, by collections.namedtuple
        session: int                      '--> its code, with these names: Want.__new__
        number: int = 0                   '--> its descriptors: Want.session, Want.number

Every process of cw loads more than a hundred such classes, and makes objects of a few. `typing` compiles a constructor
for each, and each annotation that is a text: 0.1 to 0.3 ms. These have the same constructors, fields and defaults. They
have no type parameters.
"""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Named(tuple):
        """What they share."""

        __slots__ = ()

        @classmethod
        def _make(cls, values):
            """Make one of an iterable."""
            return cls(*values)

        def _replace(self, /, **values):
            """Make one with other values of these fields."""
            made = type(self)(*map(values.pop, self._fields, self))
            if values:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(values)}")
            return made

        def _asdict(self):
            """Return its values by name."""
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({values})"

    class _Maker(type):
        """Makes an ordinary class of one that names NamedTuple as its base."""

        def __new__(cls, name, bases, namespace):
            if bases != (NamedTuple,):
                raise TypeError(f"{name}: a NamedTuple has no other bases")
            made = type.__new__(type, name, (_Named,), {**namespace, "__slots__": ()})
            fields = tuple(made.__annotations__)
            defaults = {field: namespace[field] for field in fields if field in namespace}
            if [*defaults] != [*fields[len(fields) - len(defaults) :]]:
                raise TypeError(f"{name}: a field without a default follows one that has it")
            template = _template(len(fields))
            code = template.__new__.__code__.replace(co_varnames=("_cls", *fields))
            new = FunctionType(code, template.__new__.__globals__, "__new__", (*defaults.values(),))
            new.__qualname__ = f"{name}.__new__"
            new.__annotations__ = made.__annotations__
            made.__new__ = staticmethod(new)
            made._fields = made.__match_args__ = fields
            made._field_defaults = defaults
            for field, same in zip(fields, template._fields, strict=True):
                setattr(made, field, vars(template)[same])
            return made

    @cache
    def _template(count):
        return namedtuple("_Template", [f"field{index}" for index in range(count)])

    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {})
