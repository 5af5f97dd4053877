"""Enums of a script, in a runner and home again: they are there what they are at home."""

import sys

from test_byvalue import run_script  # noqa: F401  (a fixture)

KINDS = """
    import abc, collections, datetime, decimal, enum, functools, re, sys
    from enum import Enum, Flag, IntEnum, IntFlag, auto

    class Planet(Enum):  # Python's own documentation
        MERCURY = (3.303e+23, 2.4397e6)
        EARTH   = (5.976e+24, 6.37814e6)
        def __init__(self, mass, radius):
            self.mass = mass       # in kilograms
            self.radius = radius   # in meters
        @property
        def surface_gravity(self):
            G = 6.67300E-11
            return G * self.mass / (self.radius * self.radius)
    class AutoNumber(Enum):
        def __new__(cls):
            value = len(cls.__members__) + 1
            obj = object.__new__(cls)
            obj._value_ = value
            return obj
    class Number(AutoNumber):
        ONE = (); TWO = ()
    class OrderedEnum(Enum):
        def __ge__(self, other): return self.value >= other.value
    class Grade(OrderedEnum):
        A = 5; B = 4
    class DuplicateFree(Enum):
        def __init__(self, *args):
            cls = self.__class__
            if any(self.value == e.value for e in cls):
                raise ValueError("alias")
    class Free(DuplicateFree):
        A = 1; B = 2
    class Period(datetime.timedelta, Enum):
        day_1 = 1
        day_2 = 2
    class Shape(Enum):
        SQUARE = 2; DIAMOND = 1; CIRCLE = 3; ALIAS_FOR_SQUARE = 2
    class Lower(str, Enum):
        def _generate_next_value_(name, start, count, last_values): return name.lower()
        NORTH = auto(); SOUTH = auto()
    class Own(int, Enum):
        def __new__(cls, value, doc):
            self = int.__new__(cls, value)
            self._value_, self.doc = value, doc
            return self
        A = 1, "one"; B = 2, "two"
    class Coordinate(bytes, Enum):
        def __new__(cls, value, label, unit):
            obj = bytes.__new__(cls, [value])
            obj._value_, obj.label, obj.unit = value, label, unit
            return obj
        PX = (0, "P.X", "km"); PY = (1, "P.Y", "km")
    class Pair(tuple, Enum):
        A = 1, 2
    class Named(collections.namedtuple("Base", "x y"), Enum):
        A = 1, 2
    class Date(datetime.date, Enum):
        A = 2020, 2, 3
    class Money(decimal.Decimal, Enum):
        A = "1.50"
    class Mixin:
        __slots__ = ("kept",)
        def __init__(self, *args): self.kept = args
    class Slotted(Mixin, Enum):
        A = 1; B = 2
    class Length(float, Enum):
        FOOT = 0.3048
        @classmethod
        def _missing_(cls, value): return cls.FOOT
        @staticmethod
        def static(): return Length.FOOT
    class Wild(enum.Enum):
        _ignore_ = "Wild i"
        Wild = vars()
        for i in range(3): Wild[f"number_{i}"] = i
    class Unhashable(Enum):
        A = [1, 2]; B = {"x": 1}
    class Operation(Enum):
        ADD = functools.partial(lambda x, y: x + y)
        MUL = functools.partial(lambda x, y: x * y)
        def __call__(self, *args): return self.value(*args)
    class Table(dict, Enum):
        A = {"x": 1}
    class Registered(Enum):
        def __init_subclass__(cls, *, unit, **more):
            super().__init_subclass__(**more)
            cls.unit = unit
    class Unit(Registered, unit="m"):
        A = 1
    class AbstractMeta(abc.ABCMeta, enum.EnumMeta): pass
    class Abstract(Enum, metaclass=AbstractMeta):
        @abc.abstractmethod
        def m(self): ...
    class Concrete(Abstract):
        A = 1
        def m(self): return super().__hash__() == hash(self)
    class CountingMeta(enum.EnumMeta):
        def __new__(metacls, name, bases, namespace, **more):
            cls = super().__new__(metacls, name, bases, namespace)
            cls.count = more.get("count")
            return cls
        def __getitem__(cls, name): return super().__getitem__(name.upper())
    class Counted(Enum, metaclass=CountingMeta, count=7):
        A = 1
    Functional = Enum("Functional", "CAT DOG")
    class Perm(IntFlag):
        R = 4; W = 2; X = 1; RW = 6; RWX = 7
    class Color(Flag):
        RED = auto(); BLUE = auto(); GREEN = auto(); WHITE = RED | BLUE | GREEN; NONE = 0
    class Selects(IntFlag):
        A = 1; B = 2
        def common(self): return self & COMMON
    COMMON = Selects.A | Selects.B
    def first(member=Shape.SQUARE): return member
    class Uses(Enum):
        A = 1
        def first(self): return first(), ITSELF
    ITSELF = [Uses.A]
    Uses.A.note = ITSELF
    Uses.chosen = Uses.A
"""

if sys.version_info >= (3, 11):
    KINDS += """
    class Strict(Flag, boundary=enum.STRICT):
        A = 1; B = 2
    class Conform(Flag, boundary=enum.CONFORM):
        A = 1; B = 2
    class Eject(IntFlag, boundary=enum.EJECT):
        A = 1; B = 2
    class Keep(Flag, boundary=enum.KEEP):
        A = 1; B = 2
    class Text(enum.StrEnum):
        ONE = auto(); TWO = auto()
    class Mixed(Enum):
        @enum.member
        def A(self): return 1
        B = enum.nonmember(2)
        C = enum.member(3)
        @enum.property
        def label(self): return self.name.lower()
    @enum.verify(enum.UNIQUE)
    class Checked(Enum):
        A = 1
    """
if sys.version_info >= (3, 13):
    KINDS += """
    class Aliased(Enum):
        A = 1; B = 2
    Aliased.A._add_alias_("FIRST")
    Aliased.B._add_value_alias_("two")
    """

KINDS += """
    ENUMS = [cls for cls in vars().copy().values() if isinstance(cls, enum.EnumMeta) and cls.__module__ != "enum"]
    def attempt(function):
        try:
            text = repr(function())
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        return re.sub(" at 0x[0-9a-f]+", "", text)
    def describe(cls):
        made = {"_value_", "__objclass__", "_inverted_"}
        members = cls.__members__.items()
        return (
            cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__, len(cls), bool(cls), type(cls).__name__,
            [base.__name__ for base in cls.__mro__],
            [(name, member.name, attempt(lambda: member), member is getattr(cls, name, None),
              cls._member_map_[name] is member, type(member) is cls, str(member), hasattr(member, "__dict__"),
              attempt(lambda: sorted((k, v) for k, v in vars(member).items() if k not in made)),
              attempt(lambda: format(member)), attempt(lambda: cls(member.value) is member), member == member.value,
              attempt(lambda: hash(member) == hash(member)),
              attempt(lambda: member < member), attempt(lambda: member.kept))
             for name, member in members],
            [member.name for member in cls],
            sorted(name for name in vars(cls) if name not in ("__slotnames__", "__annotations_cache__")),
            # How the members behave together, and what is no member.
            [[attempt(lambda: operation(a, b)) for _, a in members for _, b in members] for operation in
             (lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a ^ b, lambda a, b: a >= b, lambda a, b: a in b)],
            [attempt(lambda: ~member) for _, member in members],
            [attempt(lambda: list(member)) for _, member in members],
            [attempt(lambda: cls(value)) for value in (0, 3, 5, 8, 11, 77, "two", (1, "x"))],
            [attempt(lambda: cls[name]) for name in ("a", "A", "FIRST", "neither")],
            [attempt(lambda: value in cls) for value in (1, 3, 8)] if sys.version_info >= (3, 12) else (),
            getattr(cls, "_boundary_", None), getattr(cls, "count", None), getattr(cls, "unit", None),
            attempt(lambda: cls.A.common()), attempt(lambda: cls.A.first()), attempt(lambda: cls.EARTH.surface_gravity),
            attempt(lambda: cls.chosen), attempt(lambda: cls.FOOT.static()), attempt(lambda: cls.A.label),
            attempt(lambda: cls.ADD(2, 3)), attempt(lambda: cls.A.m()), attempt(lambda: cls("again", "X Y")),
        )
    def same(*things): return things
"""


def test_an_enum_is_whole_in_the_runner(run_script):  # noqa: F811
    run_script(
        KINDS
        + """
    with PipeRunner() as runner:
        home = [describe(cls) for cls in ENUMS]
        by_argument = runner.call(lambda *classes: list(map(describe, classes)), *ENUMS)
        for there in by_argument, runner.call(lambda: list(map(describe, ENUMS))):
            for cls, here, other in zip(ENUMS, home, there, strict=True):
                for a, b in zip(here, other, strict=True):
                    assert a == b, (cls, a, b)
    """
    )


def test_members_keep_their_identity_there_and_home_again(run_script):  # noqa: F811
    run_script(
        KINDS
        + """
    def is_one(cls, name, member): return cls[name] is member and member is type(member)[name]
    with PipeRunner() as runner:
        for cls in ENUMS:
            for name, member in cls.__members__.items():
                assert runner.call(is_one, cls, name, member), member
            members = tuple(cls.__members__.values())
            for here, there in zip(members, runner.call(same, *members), strict=True):
                assert here is there
        for here, there in zip(ENUMS, runner.call(same, *ENUMS), strict=True):
            assert here is there
        assert runner.call(lambda: (Perm(6) is Perm.RW, Perm(3) is Perm.W | Perm.X)) == (True, True)
        assert runner.call(same, Perm(3))[0] is Perm(3)
        assert runner.call(lambda: Perm(5)) is Perm(5)
        assert runner.call(lambda: Operation.ADD)(1, 2) == 3
    """
    )


def test_what_was_made_while_its_members_were_is_not_made_again(run_script):  # noqa: F811
    run_script(
        """
    import enum, random
    made = []
    class Drawn(enum.Enum):
        def __new__(cls, name):
            self = object.__new__(cls)
            made.append(name)
            self._value_ = len(made)
            return self
        def __init__(self, name):
            self.drawn = random.random()
        A = "a"; B = "b"
    with PipeRunner() as runner:
        assert runner.call(lambda: [(m.value, m.drawn) for m in Drawn]) == [(m.value, m.drawn) for m in Drawn]
        assert runner.call(lambda: made) == ["a", "b"]
    """
    )


def test_an_enum_that_is_changed_is_the_one_that_runs(run_script):  # noqa: F811
    run_script(
        """
    import enum
    class Color(enum.Enum):
        RED = 1
        def m(self): return "old"
    def look(member=None): return Color.RED.m(), Color.RED.label, member in (None, Color.RED)
    Color.RED.label = "old"
    with PipeRunner() as runner:
        assert runner.call(look) == runner.call(look, Color.RED) == ("old", "old", True)
        Color.m = lambda self: "new"
        Color.RED.label = "new"
        assert runner.call(look) == runner.call(look, Color.RED) == ("new", "new", True)
        class Color(enum.Enum):
            RED = 2
            def m(self): return "newest"
        Color.RED.label = "newest"
        assert runner.call(look) == runner.call(look, Color.RED) == ("newest", "newest", True)
    """
    )


def test_an_enum_made_in_a_job_arrives_whole_and_can_go_back(run_script):  # noqa: F811
    run_script(
        """
    import enum
    def make():
        class Local(int, enum.Enum):
            def __new__(cls, number, label):
                self = int.__new__(cls, number)
                self._value_, self.label = number, label
                return self
            A = 1, "one"
        return Local.A
    def back(member): return type(member), member.label, type(member)(1) is member
    with PipeRunner() as first, PipeRunner() as second:
        member = first.call(make)
        assert member.label == "one" and type(member)(1) is member and member + 1 == 2
        assert first.call(back, member) == second.call(back, member) == (type(member), "one", True)
    """
    )


def test_an_enums_own_way_to_be_pickled_is_kept(run_script):  # noqa: F811
    run_script(
        """
    import enum
    class Own(enum.Enum):
        A = 1; B = 2
        def __reduce_ex__(self, protocol): return Own, (2,)
    with PipeRunner() as runner:
        assert runner.call(lambda member: member.name, Own.A) == "B"
    """
    )
