"""Classes and functions of a script, in a runner and home again: each test is a script, run as `__main__`."""

import os
import subprocess
import sys
import textwrap

import pytest

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)


@pytest.fixture
def run_script(tmp_path, run_forked):
    """Runs a script, in a process of its own if it has `options` for Python."""

    def run(text, *options):
        script = tmp_path / "the_script.py"
        kind = "PipeRunner" if options else "ForkedRunner as PipeRunner"
        script.write_text(f"from pipe_runner import {kind}\n{textwrap.dedent(text)}\nprint('done')\n")
        if not options:
            done = run_forked(script)
        else:
            done = subprocess.run(
                [sys.executable, *options],
                input=script.read_text() if options == ("-",) else None,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, ROOT])},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert done.stderr == ""
        assert done.stdout == "done\n"

    return run


CLASSES = """
    import abc, collections, dataclasses, enum, typing
    @dataclasses.dataclass
    class Data:
        a: int
        b: list = dataclasses.field(default_factory=list)
        unit: typing.ClassVar[str] = "m"
    @dataclasses.dataclass(frozen=True, order=True)
    class Frozen:
        a: int
        b: list
        c: int = 5
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2
        def other(self): return Colour.BLUE if self is Colour.RED else Colour.RED
    class Flag(enum.IntFlag):
        A = 1
        B = 2
    Point = collections.namedtuple("Point", "x y")
    class Typed(typing.NamedTuple):
        x: int
        def double(self): return Typed(2 * self.x)
    class Failed(Exception):
        def __init__(self, code, text):
            super().__init__(f"{code}: {text}")
            self.code = code
    class Problem(Exception):
        pass
    class Base(abc.ABC):
        @abc.abstractmethod
        def m(self): ...
    class Sub(Base):
        def __init__(self): self.made = 1
        def m(self): return super().__repr__()[:1]
        @property
        def p(self): return self.made
        @classmethod
        def make(cls): return cls()
    class Slots:
        __slots__ = ("x",)
    class MoreSlots(Slots):
        __slots__ = ["y", "__dict__"]
    T = typing.TypeVar("T")
    class Box(typing.Generic[T]):
        def __init__(self, x): self.x = x
    class Dict(dict):
        pass
"""


@pytest.mark.parametrize(
    "options",
    [("the_script.py",), ("-",), ("-m", "the_script"), ("-c", "exec(open('the_script.py').read())")],
    ids=["file", "stdin", "-m", "-c"],
)
def test_instances_of_the_scripts_classes_come_home_as_instances_of_them(run_script, options):
    run_script(
        CLASSES
        + """
    def same(*things): return things
    def make(): return Data(1), Colour.RED, Point(1, 2), Sub.make()
    slots = MoreSlots(); slots.x = 3; slots.y = slots.z = 4
    things = (Data(1, [2]), Frozen(1, [2]), Colour.RED, Flag.A | Flag.B, Point(1, 2), Typed(4), Problem(1),
              Sub(), slots, Box(3), Dict(a=1))
    with PipeRunner() as runner:
        home = runner.call(same, *things)
        assert [type(t) for t in home] == [type(t) for t in things]
        assert home[2] is Colour.RED and home[2].other() is Colour.BLUE
        for i in 0, 1, 3, 4, 5, 10:
            assert home[i] == things[i]
        assert home[6].args == (1,) and home[9].x == 3
        assert (home[8].x, home[8].y, home[8].z) == (3, 4, 4)
        assert isinstance(home[7], Base) and home[7].m() == "<" and home[7].p == 1
        assert dataclasses.asdict(home[1]) == {"a": 1, "b": [2], "c": 5}
        made = runner.call(make)
        assert [type(t) for t in made] == [Data, Colour, Point, Sub]
        assert [type(t) for t in runner.call(lambda: make())] == [Data, Colour, Point, Sub]
        classes = [type(t) for t in things]
        assert runner.call(same, *classes) == tuple(classes)
        assert runner.call(Data, 1) == Data(1)
        assert runner.call(Data(1).__eq__, Data(1)) is True
    """,
        *options,
    )


def test_the_scripts_exceptions_can_be_caught_at_home(run_script):
    run_script(
        CLASSES
        + """
    def fail(): raise Failed(3, "there")
    with PipeRunner() as runner:
        try:
            runner.call(fail)
        except Failed as error:
            assert (error.code, str(error)) == (3, "3: there")
            assert "in fail" in str(error.__cause__) and "host here" in str(error.__cause__)
        else:
            raise AssertionError
    """
    )


def test_in_the_runner_the_scripts_classes_are_whole(run_script):
    run_script(
        CLASSES
        + """
    def look(data, colour, sub):
        assert isinstance(data, Data) and type(data) is Data and data == Data(1)
        assert [f.name for f in dataclasses.fields(data)] == ["a", "b"]
        assert dataclasses.replace(data, a=2) == Data(2)
        assert colour is Colour.RED and colour.other() is Colour.BLUE and Colour(2) is Colour.BLUE
        assert type(sub) is Sub and sub.m() and Sub.make().p == 1
        assert Data.__module__ == "__main__"
        assert not hasattr(Slots(), "__dict__") and hasattr(MoreSlots(), "__dict__")
        try:
            Base()
        except TypeError:
            return True
    with PipeRunner() as runner:
        for _ in range(3):
            assert runner.call(look, Data(1), Colour.RED, Sub())
    """
    )


def test_a_result_changes_nothing_in_the_class_at_home(run_script):
    run_script(
        """
        made = []
        class Base:
            count = 0
            def __init_subclass__(cls):
                made.append(cls)
        class C(Base):
            count = 1
            log = []
            def m(self): return FACTOR
        FACTOR = 2
        def job(c):
            C.count += 10
            C.log.append(1)
            C.new = 1
            return c, C()
        with PipeRunner() as runner:
            method = C.m
            for i in range(3):
                C.count = 5
                assert all(type(c) is C for c in runner.call(job, C()))
                assert C.m is method and C.count == 5 and C.log == [] and not hasattr(C, "new")
            assert made == [C]
            FACTOR = 3
            assert runner.call(job, C())[0].m() == 3
        """
    )


def test_a_class_made_in_a_job_arrives_whole_and_can_go_back(run_script):
    run_script(
        """
        def make():
            class Local:
                def __init__(self, x): self.x = x
                def m(self): return self.x + 1
            return Local(3)
        def back(thing): return thing.m(), type(thing)
        with PipeRunner() as first, PipeRunner() as second:
            one, other = first.call(make), first.call(make)
            assert one.m() == 4 and type(one) is not type(other)
            value, cls = second.call(back, one)
            assert value == 4 and cls is type(one)
            value, cls = first.call(back, one)
            assert value == 4 and cls is type(one)
        """
    )


def test_an_edited_class_is_the_one_that_runs(run_script):
    run_script(
        """
        A = 1
        class C:
            def m(self): return "old", A
        def call(c): return c.m()
        def call_own(): return C().m()
        with PipeRunner() as runner:
            for function, args in (call, [C()]), (call_own, []):
                assert runner.call(function, *args) == ("old", A)
            A = 2
            for function, args in (call, [C()]), (call_own, []), (C().m, []):
                assert runner.call(function, *args) == ("old", 2)
            C.m = lambda self: "new"
            for function, args in (call_own, []), (call, [C()]), (C().m, []):
                assert runner.call(function, *args) == "new"
            class C:
                def m(self): return "newest"
            for function, args in (call_own, []), (call, [C()]), (C().m, []):
                assert runner.call(function, *args) == "newest"
        """
    )


def test_functions_and_methods_share_their_global_names_in_the_runner(run_script):
    run_script(
        """
        seen = []
        class C:
            cache = {}
            def m(self): seen.append("m")
        def job(c):
            seen.append("f")
            c.m()
            C().m()
            C.cache[len(C.cache)] = 1
            return list(seen), len(C.cache)
        with PipeRunner() as runner:
            # Nor does an argument that brings the class once more take away what the runner has of it.
            assert runner.call(job, C()) == (["f", "m", "m"], 1)
            assert runner.call(job, C()) == (["f", "m", "m"] * 2, 2)
        """
    )


def test_functions_of_all_kinds_run_there(run_script):
    run_script(
        """
        import functools, math
        A = 3
        @functools.lru_cache(maxsize=None)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.cache
        def cached(x): return x + A
        def uses_cached(x): return cached(x)
        def with_class():
            class Inner:
                a = A
                b = [A for _ in range(2)]
                def m(self): return math.floor(self.a + 0.5)
            return Inner.a, Inner.b, Inner().m()
        def outer(n):
            def inner(): return n if n < 1 else (n, outer(n - 1)())
            return inner
        def wrapped(f):
            @functools.wraps(f)
            def inner(*args): return f(*args) + 1
            return inner
        @wrapped
        def decorated(x): return x * A
        def generator(): yield A
        @functools.singledispatch
        def text(x): return "?"
        text.extra = 7
        @text.register
        def of_int(x: int): return str(x + A)
        @text.register
        def of_list(x: list): "Lists."; return [text(item) for item in x]
        def with_branches(n):
            class Inner:
                if n > 100: A = 1
                b = A
            return Inner.b
        class K:
            @functools.cached_property
            def c(self): return A + 1
            @functools.singledispatchmethod
            def d(self, x): return "?"
            @d.register
            def _(self, x: int): return self.d(None), x + A
            def __call__(self, x): return x + A
            @staticmethod
            def s(): return A
        with PipeRunner() as runner:
            assert runner.call(fib, 50) == 12586269025
            assert runner.call(cached, 1) == runner.call(uses_cached, 1) == 4
            assert runner.call(with_class) == (3, [3, 3], 3)
            assert runner.call(outer(2)) == (2, (1, 0))
            assert runner.call(decorated, 2) == 7
            assert runner.call(lambda f: f(1), lambda x: x + A) == 4
            assert runner.call(lambda: list(generator())) == [3]
            assert runner.call(text, [1, None]) == ["4", "?"] and runner.call(lambda: text([2])) == ["5"]
            assert text.register(float, lambda x: "float") and runner.call(text, 1.5) == "float"
            assert runner.call(lambda: (text.dispatch(list).__doc__, text.extra)) == ("Lists.", 7)
            assert runner.call(with_branches, 1) == 3 and runner.call(with_branches, 101) == 1
            assert runner.call(lambda k: (k.c, k.c, vars(k)), K()) == (4, 4, {"c": 4})
            assert runner.call(K(), 1) == 4 and runner.call(K.s) == 3
            assert runner.call(lambda k: k.d(1), K()) == ("?", 4)
            assert runner.call(functools.partial(decorated, 2)) == 7
            function = runner.call(lambda n: lambda: n + A, 4)
            assert function() == 7 and runner.call(function) == 7
        """
    )


def test_a_module_next_to_the_script_is_found_through_the_environment(run_script, tmp_path):
    (tmp_path / "neighbour.py").write_text("class N:\n    pass\ndef make(): return N()")
    run_script(
        """
        import neighbour
        from cw.payloads.environment import dump_environment
        def use(): return neighbour.make()
        with PipeRunner(dump_environment()) as runner:
            for function in neighbour.make, use:
                assert type(runner.call(function)) is neighbour.N
        with PipeRunner() as runner:
            try:
                runner.call(neighbour.make)
            except ModuleNotFoundError as error:
                assert error.name == "neighbour"
            else:
                raise AssertionError
        """
    )


def test_arrays_in_arguments_with_the_scripts_classes_travel_out_of_band(run_script):
    pytest.importorskip("numpy")
    run_script(
        """
        import dataclasses, numpy
        from pickles import dump_call
        @dataclasses.dataclass
        class Field:
            values: numpy.ndarray
        def total(field):
            field.values += 1
            return field
        field = Field(numpy.zeros(100_000))
        assert dump_call((field,), {})[0] == 1
        with PipeRunner() as runner:
            assert runner.call(total, field).values.sum() == 100_000
            assert field.values.sum() == 0
        """
    )


def test_a_definition_is_pickled_once_for_the_instances_in_results(run_script):
    run_script(
        """
        from cw.payloads import byvalue
        class C:
            pass
        runs = []
        original = byvalue._run
        byvalue._run = lambda *args: runs.append(args[0]) or original(*args)
        for _ in range(3):
            byvalue.dumps((C(), C()))
        assert len([thing for thing in runs if thing is C]) == 1
        C.x = 1
        byvalue.dumps((C(), C()))
        assert len([thing for thing in runs if thing is C]) == 2
        """
    )


def test_a_definition_of_a_local_class_is_pickled_once_for_the_instances_in_calls(run_script):
    run_script(
        """
        from cw.payloads import named
        from pickles import dump_call
        def make():
            class C:
                pass
            return C
        local = make()
        runs = []
        original = named._pickled_definition
        named._pickled_definition = lambda cls, version: runs.append(cls) or original(cls, version)
        for _ in range(3):
            dump_call((local(), local()), {})
        assert runs == [local]
        local.x = 1
        dump_call((local(), local()), {})
        assert set(runs) == {local} and len(runs) > 1
        """
    )


def test_classes_that_are_no_longer_used_are_let_go(run_script):
    run_script(
        """
        import gc, weakref
        from cw.payloads import byvalue
        from pickles import dump_call
        byvalue._DEFINITIONS = 10
        references = []
        for _ in range(50):
            class C:
                pass
            dump_call((C(),), {})
            references.append(weakref.ref(C))
        gc.collect()
        assert sum(reference() is not None for reference in references) <= 11
        """
    )


def test_several_threads_may_pickle_the_same_classes(run_script):
    run_script(
        """
        import concurrent.futures, sys
        from cw.payloads import serialize
        from pickles import dump_call
        sys.setswitchinterval(1e-6)
        def make(i):
            class C:
                x = i
            return C
        classes = [make(i) for i in range(20)]
        class D:
            pass
        def work(k):
            for i in range(50):
                D.x = i
                c = classes[(i + k) % 20]
                (one, other), _ = serialize.load_call(dump_call((c(), D()), {}))
                assert type(one) is c and type(other) is D
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        """
    )


def test_what_a_class_holds_and_was_changed_in_place_travels_with_the_next_function(run_script):
    run_script(
        """
        class D:
            numbers = [1]
        class C:
            settings = {"a": 1}
            part = D
        def f(): return C.settings["a"], C.part.numbers
        def g(): return C.settings["a"] * 10, C.part.numbers
        def h(): return C.part.numbers
        with PipeRunner() as runner:
            assert runner.call(f) == (1, [1])
            C.settings["a"] = 2
            assert runner.call(g) == (20, [1])
            D.numbers.append(2)
            assert runner.call(h) == [1, 2]
            assert runner.call(f) == (2, [1, 2])
        """
    )


def test_what_is_random_in_a_module_stays_so_whatever_name_the_script_gives_it(run_script):
    run_script(
        """
        import random, numpy, numpy.random as other
        from random import random as draw, gauss
        from numpy.random import rand
        from cw.payloads import serialize
        def drawn(): return draw(), gauss(0, 1), rand()
        def given(generators): return [generate() for generate in generators]
        class Model:
            draw = draw
            def go(self): return self.draw()
        with PipeRunner() as first, PipeRunner() as second:
            for function, args in [
                (drawn, ()), (draw, ()), (rand, ()), (given, ([draw, rand],)), (Model().go, ()), (gauss, (0, 1)),
            ]:
                assert first.call(function, *args) != second.call(function, *args), function
                assert len(serialize.dump((function, args))) < 2000
            # Generators of the script's own travel with their state.
            own = random.Random(5).random, numpy.random.RandomState(5).rand
            assert first.call(given, own) == second.call(given, own)
        """
    )


def test_code_keeps_its_files_name_and_lines_there(run_script):
    run_script(
        """
        import traceback
        def outer():
            def inner(): raise LookupError("found nothing")
            try:
                inner()
            except LookupError:
                return traceback.format_exc()
        with PipeRunner() as runner:
            text = runner.call(outer)
            assert text.count("the_script.py") == 2 and "def inner(): raise LookupError" in text, text
        """
    )


def test_typed_dicts_travel(run_script):
    run_script(
        """
        import typing
        class Options(typing.TypedDict, total=False):
            a: int
        class More(Options):
            b: str
        with PipeRunner() as runner:
            made = runner.call(lambda: (More(a=1, b="x"), More.__total__, sorted(More.__optional_keys__), More))
            assert made == ({"a": 1, "b": "x"}, More.__total__, sorted(More.__optional_keys__), More)
            assert runner.call(lambda cls: sorted(typing.get_type_hints(cls).items()), More) == [("a", int), ("b", str)]
        """
    )
