"""The runner's `__main__` is the user's script: each test is a script, whose jobs find there what it defines."""

import sys
import textwrap

import pytest


@pytest.fixture
def run_script(tmp_path, run_forked):
    """Runs a script; its text gets a `runner`, and a guard where `main()` is defined."""

    def run(text, before=""):
        script = tmp_path / "the_script.py"
        script.write_text(
            f"{before}\nfrom pipe_runner import ForkedRunner\n{textwrap.dedent(text)}\n"
            "if __name__ == '__main__':\n"
            "    with ForkedRunner() as runner:\n"
            "        main(runner)\n"
            "    print('done')\n"
        )
        done = run_forked(script)
        assert done.returncode == 0, done.stderr
        assert (done.stdout, done.stderr) == ("done\n", "")

    return run


def test_files_pickled_in_a_job_load_at_home_and_the_other_way_round(run_script):
    run_script(
        """
        import collections, dataclasses, enum, pickle, shelve, typing
        class Model:
            class Part:
                def __eq__(self, other): return type(self) is type(other)
            def __init__(self, n): self.n, self.part = n, Model.Part()
            def __eq__(self, other): return type(self) is type(other) and vars(self) == vars(other)
            def method(self): return self.n
        class Derived(Model):
            def __init__(self): super().__init__(9)
        @dataclasses.dataclass
        class Data:
            x: int
            sub: "Data | None" = None
        class Colour(enum.Enum):
            RED = 1
        class Flag(enum.Flag):
            A = 1
            B = 2
        Point = collections.namedtuple("Point", "x y")
        class Typed(typing.NamedTuple):
            x: int
        class Failed(Exception):
            def __init__(self, code, text): super().__init__(code, text); self.code = code
            def __eq__(self, other): return type(self) is type(other) and self.args == other.args
        def function(x): return x + 1
        def values():
            return [Model(3), Derived(), Data(1, Data(2)), Colour.RED, Flag.A | Flag.B, Point(1, 2), Typed(3),
                    Failed(1, "a"), function, Model, Model.Part, Model.method, Colour, Model(4).method]
        def check(found):
            *found, method = found
            assert found == values()[:-1] and method() == 4
            assert found[3] is Colour.RED and found[9] is Model and found[8] is function
        def write(path):
            with open(path, "wb") as file: pickle.dump(values(), file)
        def read(path):
            with open(path, "rb") as file: found = pickle.load(file)
            check(found)
            return found
        def write_shelf(path):
            with shelve.open(path) as shelf: shelf["all"] = values()
        def read_shelf(path):
            with shelve.open(path) as shelf: check(shelf["all"])
        def main(runner):
            import os
            here = os.getcwd()
            for write_it, read_it in ((write, read), (write_shelf, read_shelf)):
                for where in ("job", "home"):
                    path = f"{here}/{write_it.__name__}{where}"
                    (lambda *args: runner.call(write_it, *args) if where == "job" else write_it(*args))(path)
                    runner.call(read_it, path)
                    read_it(path)
            check(runner.call(read, f"{here}/writejob"))
        """
    )


def test_a_file_that_refers_to_what_no_call_has_reached_loads_in_a_job(run_script):
    run_script(
        """
        import pickle
        SCALE = 3
        class Unreached:
            def __init__(self): self.x = 1
            def scaled(self): return self.x * helper()
        def helper(): return 10
        def unreached(): return helper()
        def read(path):
            import pickle
            with open(path, "rb") as file: thing, function = pickle.load(file)
            return thing.x, thing.scaled(), function(), type(thing).__qualname__
        def main(runner):
            import os
            path = os.path.abspath("file")
            with open(path, "wb") as file: pickle.dump((Unreached(), unreached), file)
            assert runner.call(read, path) == (1, 10, 10, "Unreached")
        """
    )


def test_names_are_found_in_every_way(run_script):
    run_script(
        """
        import typing, timeit, inspect
        class A:
            x: "B"
            def m(self, other: "B") -> "A": ...
        class B: pass
        RATE = 3
        def f(): return RATE
        def g(x): return 2 * x
        def names():
            import __main__, sys
            assert __main__ is sys.modules["__main__"] and vars(__main__) is globals()
            assert __main__.f is f is globals()["f"] and getattr(__main__, "g") is g
            assert __main__.RATE == 3 and __main__.__name__ == "__main__" == __name__
            return globals()["g"](4), eval("g(5)"), __main__.A is A
        def hints():
            found = typing.get_type_hints(A)
            assert found == {"x": B}, found
            assert typing.get_type_hints(A.m) == {"other": B, "return": A}
            return "right"
        def timed():
            return timeit.timeit("g(1)", setup="from __main__ import g", number=3) > 0
        def from_main():
            from __main__ import A as found, f as function
            return found is A, function()
        def file():
            import os
            return os.path.basename(__file__), os.path.basename(inspect.getsourcefile(A.m)), inspect.getsource(g)
        def main(runner):
            assert runner.call(names) == (8, 10, True)
            assert runner.call(hints) == "right"
            assert runner.call(timed) is True
            assert runner.call(from_main) == (True, 3)
            assert runner.call(file) == ("the_script.py", "the_script.py", "def g(x): return 2 * x\\n")
            assert runner.call(lambda: (names(), hints(), from_main())) == ((8, 10, True), "right", (True, 3))
        """
    )


def test_annotations_that_refer_to_later_classes_are_found(run_script):
    run_script(
        """
        import typing
        class A:
            x: "B"
            y: typing.Optional["A"] = None
            z: typing.List["B"]
            other: "typing.Any"
        class B: pass
        def hints(): return typing.get_type_hints(A)
        def main(runner):
            assert runner.call(hints) == hints()
        """
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_in_jobs_run_functions_of_the_script(run_script, method):
    run_script(
        f"""
        import concurrent.futures, multiprocessing
        class Model:
            def __init__(self, n): self.n = n
            def double(self, x): return Model(2 * self.n * x)
        def square(n): return n * n
        def pools(method):
            context = multiprocessing.get_context(method)
            with context.Pool(2) as pool:
                first = pool.map_async(square, range(4)).get(30), pool.apply_async(Model(3).double, (2,)).get(30).n
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
                return first, list(executor.map(square, range(4), timeout=30))
        def child(queue): queue.put(square(5))
        def process(method):
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            found = queue.get(timeout=30)
            process.join(30)
            return found, process.exitcode
        def main(runner):
            assert runner.call(pools, {method!r}) == (([0, 1, 4, 9], 12), [0, 1, 4, 9])
            assert runner.call(process, {method!r}) == (25, 0)
        """
    )


def test_a_forked_child_sees_what_the_job_has_set(run_script):
    run_script(
        """
        import multiprocessing
        STATE = {}
        def look(n): return STATE.get("a"), n
        def job():
            STATE["a"] = 5
            with multiprocessing.get_context("fork").Pool(1) as pool: return pool.map_async(look, [1]).get(30)
        def main(runner):
            assert runner.call(job) == [(5, 1)]
            assert STATE == {}
        """
    )


def test_joblib_dumps_and_runs_in_a_job(run_script):
    pytest.importorskip("joblib")
    run_script(
        """
        import joblib
        class Model:
            def __init__(self, n): self.n = n
        def square(n): return n * n
        def dump(path): joblib.dump(Model(3), path)
        def load(path): return joblib.load(path).n
        def parallel():
            return joblib.Parallel(n_jobs=2, backend="multiprocessing")(joblib.delayed(square)(n) for n in range(3))
        def main(runner):
            import os
            path = os.path.abspath("model")
            runner.call(dump, path)
            assert runner.call(load, path) == joblib.load(path).n == 3
            assert runner.call(parallel) == [0, 1, 4]
        """
    )


def test_pydantic_models_with_string_annotations_are_built_in_a_job(run_script):
    pytest.importorskip("pydantic")
    run_script(
        """
        from pydantic import BaseModel
        class Top(BaseModel):
            items: list[Low] = []
            more: Top | None = None
        class Low(BaseModel):
            x: int = 1
        def top(): return Top(items=[{"x": "3"}], more={"items": [{}]}).items[0].x
        def given(model): return model.items[0].x, type(model) is Top, Top.model_validate(model.model_dump()) == model
        def local():
            class P(BaseModel):
                c: Low
            return P(c=Low(x=4)).c.x
        def main(runner):
            assert runner.call(top) == 3
            assert runner.call(given, Top(items=[Low(x=5)])) == (5, True, True)
            assert runner.call(local) == 4
            assert type(runner.call(Low, x=3)) is Low
        """,
        "from __future__ import annotations",
    )


def test_dataclasses_typing_and_dispatch_work_in_a_job(run_script):
    run_script(
        """
        import abc, dataclasses, functools, typing
        T = typing.TypeVar("T")
        @dataclasses.dataclass(order=True)
        class Conf:
            lr: float = 0.1
            sub: Conf | None = None
            tags: list[str] = dataclasses.field(default_factory=list)
        class Box(typing.Generic[T]):
            def __init__(self, value: T) -> None: self.value = value
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self) -> float: ...
        class Square(Shape):
            def area(self): return 4.0
        class Sized(typing.Protocol):
            def size(self) -> int: ...
        @functools.singledispatch
        def show(x): return "thing"
        @show.register
        def _(x: int): return "number"
        @show.register(Conf)
        def _(x): return "conf"
        @functools.lru_cache
        def cached(n): return n * n
        @functools.total_ordering
        class Ordered:
            def __init__(self, n): self.n = n
            def __eq__(self, other): return self.n == other.n
            def __lt__(self, other): return self.n < other.n
        def all_of_it():
            assert dataclasses.replace(Conf(), lr=3).lr == 3
            assert dataclasses.asdict(Conf(sub=Conf()))["sub"]["tags"] == []
            assert [f.name for f in dataclasses.fields(Conf)] == ["lr", "sub", "tags"]
            assert typing.get_type_hints(Conf)["sub"] == typing.Optional[Conf]
            assert Box[int](3).value == 3 and Square().area() == 4
            try: Shape()
            except TypeError: pass
            assert (show("a"), show(3), show(Conf())) == ("thing", "number", "conf")
            assert cached(3) == 9 and Ordered(1) <= Ordered(2)
            assert Conf(1.0) < Conf(2.0)
            return "right"
        def main(runner):
            assert runner.call(all_of_it) == "right"
        """,
        "from __future__ import annotations",
    )


def test_values_travel_only_for_what_the_call_reaches(run_script):
    run_script(
        """
        import threading
        FRAME = bytearray(10_000_000)
        LOCK, FILE = threading.Lock(), open("file", "w")
        class Executor:
            def __reduce__(self): raise TypeError("never")
        executor = Executor()
        SMALL = [1]
        def f(): return SMALL
        def only_main_reads_it(): return len(FRAME), executor, LOCK
        class Uses:
            def used(self): return SMALL
        def method(): return Uses().used()
        def main(runner):
            for function in (f, method, lambda: f()):
                assert runner.call(function) == [1]
            assert runner.sent_bytes < 100_000, runner.sent_bytes
        """
    )


def test_what_cannot_be_pickled_is_unbound_and_the_error_says_why(run_script):
    run_script(
        """
        import threading
        import cw
        LOCK = threading.Lock()
        FILE = open(__file__)
        HELD = {"lock": LOCK}
        def reads_lock(): return LOCK
        def reads_file(): return FILE.read()
        def reads_held(): return HELD["lock"]
        def uses(name, really): return {"a": reads_lock, "b": reads_file, "c": reads_held}[name]() if really else 5
        def deep(name, really): return uses(name, really)
        def main(runner):
            for function in (reads_lock, reads_file, reads_held, lambda: LOCK):
                try: runner.call(function)
                except cw.NotPicklable as error: assert any(name in str(error) for name in ("LOCK", "FILE", "HELD"))
                else: raise AssertionError(function)
            for name, variable, kind in ("a", "LOCK", "lock"), ("b", "FILE", "open file"), ("c", "HELD", "lock"):
                for function in uses, deep, lambda name, really: uses(name, really):
                    assert runner.call(function, name, False) == 5
                    try: runner.call(function, name, True)
                    except NameError as error:
                        text = str(error)
                        assert repr(variable) in text and kind in text and "argument" in text, text
                    else: raise AssertionError(name)
        """
    )


def test_a_name_that_the_call_does_not_reach_says_so(run_script):
    run_script(
        """
        TABLE = {1: 2}
        def by_name(name): return globals()[name]
        def imported():
            import __main__
            return __main__.TABLE
        def evaluated(): return eval("TABLE")
        def main(runner):
            try: runner.call(by_name, "TABLE")
            except KeyError: pass
            for function in imported, evaluated:
                try: assert runner.call(function) == {1: 2}
                except (NameError, AttributeError) as error: assert "TABLE" in str(error), error
        """
    )


def test_nothing_of_the_script_is_executed_in_the_runner(run_script):
    run_script(
        """
        import os
        with open("executed", "a") as file: file.write(__name__ + "\\n")
        def f(): return 3
        class C:
            with open("executed", "a") as file: file.write("C\\n")
            del file
        def main(runner):
            assert runner.call(f) == 3 and runner.call(lambda: f()) == 3
            runner.call(C)
            assert open("executed").read() == "__main__\\nC\\n"
        """
    )


def test_a_spawned_child_runs_the_script_under_its_guard(run_script):
    run_script(
        """
        import multiprocessing
        with open("executed", "a") as file: file.write(__name__ + "\\n")
        def square(n): return n * n
        def job():
            with multiprocessing.get_context("spawn").Pool(1) as pool: return pool.map_async(square, [3]).get(30)
        def main(runner):
            import os
            assert runner.call(os.chdir, os.getcwd()) is None
            assert runner.call(job) == [9]
            assert open("executed").read() == "__main__\\n__mp_main__\\n"
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="boundaries are new in Python 3.11")
def test_enums_of_the_script_are_whole(run_script):
    run_script(
        """
        import enum, pickle
        class Planet(enum.Enum):  # of Python's documentation
            MERCURY = (3.303e+23, 2.4397e6)
            EARTH = (5.976e+24, 6.37814e6)
            def __init__(self, mass, radius):
                self.mass = mass
                self.radius = radius
            @property
            def surface_gravity(self):
                return 6.67300E-11 * self.mass / (self.radius * self.radius)
        class Coordinate(bytes, enum.Enum):  # of the same
            def __new__(cls, value, label, unit):
                obj = bytes.__new__(cls, [value])
                obj._value_ = value
                obj.label = label
                obj.unit = unit
                return obj
            PX = (0, "P.X", "km")
            VY = (2, "V.Y", "km/s")
        class Alias(enum.Enum):
            ONE = 1
            UNO = 1
            TWO = 2
        class Perm(enum.Flag):
            R, W = 4, 2
            RW = 6
        class Strict(enum.IntFlag, boundary=enum.KEEP):
            A = 1
        class Text(enum.StrEnum):
            A = enum.auto()
        class Auto(enum.IntEnum):
            def _generate_next_value_(name, start, count, last): return 10 * (count + 1)
            A = enum.auto()
            B = enum.auto()
        class Missing(enum.Enum):
            A = 1
            @classmethod
            def _missing_(cls, value): return cls.A
        def describe():
            return [
                Planet.EARTH.mass, Planet.EARTH.surface_gravity, [p.name for p in Planet],
                Planet((3.303e+23, 2.4397e6)).name,
                Coordinate.PX.label, Coordinate.VY.unit, Coordinate.VY.value, bytes(Coordinate.VY), Coordinate(2).name,
                Alias.UNO is Alias.ONE, list(Alias.__members__), Alias["UNO"].name, len(Alias),
                repr(Perm.RW), repr(Perm.R | Perm.W), Perm(6).name, (Perm.R | Perm.W) is Perm.RW,
                [p.name for p in Perm.RW],
                Strict(9).value, repr(Strict(9)), Strict._boundary_.name, Text.A == "a", str(Text.A),
                Auto.B + 1, Missing(7).name,
            ]
        MEMBERS = [Planet.EARTH, Coordinate.VY, Alias.UNO, Perm.RW, Strict.A, Text.A]
        def pickled(): return pickle.dumps([Planet.EARTH, Coordinate.VY, Alias.UNO, Perm.RW, Strict.A, Text.A])
        def same(*members):
            return (members[0] is Planet.EARTH, members[1] is Perm.RW, members[2] is Coordinate.VY, members)
        def main(runner):
            assert runner.call(describe) == describe(), (runner.call(describe), describe())
            assert runner.call(lambda: describe()) == describe()
            assert pickle.loads(runner.call(pickled)) == MEMBERS
            *is_same, members = runner.call(same, Planet.EARTH, Perm.RW, Coordinate.VY)
            assert all(is_same) and members == (Planet.EARTH, Perm.RW, Coordinate.VY)
            assert members[0] is Planet.EARTH and members[2] is Coordinate.VY and members[1] is Perm.RW
        """
    )


def test_values_in_definitions_may_need_code_of_the_script(run_script):
    run_script(
        """
        import collections, enum
        Point = collections.namedtuple("Point", "x y")
        class Made:
            def __init__(self, n): self.n = n
            def __reduce__(self): return make, (self.n,)
        def make(n): return Made(n)
        class K(enum.Enum):
            A = Point(1, 2)
        class C:
            point, made = Point(3, 4), Made(5)
            def m(self, made=Made(6)): return made.n
        def f(): return K.A.value.x, C.point.y, C.made.n, C().m()
        def main(runner):
            assert runner.call(f) == (1, 4, 5, 6)
        """
    )


def test_a_list_that_could_not_be_pickled_once_travels_when_it_can(run_script):
    run_script("""
        import threading
        LOCKS = []
        def other(): return len(LOCKS)
        def f(): return other()
        def main(runner):
            assert runner.call(f) == 0
            LOCKS.append(threading.Lock())
            try: runner.call(f)
            except NameError as error: assert "cannot be pickled" in str(error)
            else: raise AssertionError
            LOCKS.clear()
            assert runner.call(f) == 0
            LOCKS.append(7)
            assert runner.call(f) == 1
    """)


def test_names_that_are_looked_up_by_a_text_are_as_they_are_at_home(run_script):
    run_script("""
        K = 1
        def f(): return globals()["K"], eval("K"), globals().get("LATE")
        def main(runner):
            global K, LATE
            assert runner.call(f) == (1, 1, None)
            K, LATE = 5, 6
            assert runner.call(f) == (5, 5, 6)
    """)


def test_a_lambda_that_two_values_hold_is_one_object(run_script):
    run_script("""
        by_default = lambda value=3: value
        HANDLERS = {"a": by_default}
        class Holder:
            def __init__(self): self.handler = by_default
            def is_it(self): return self.handler is by_default
        def called(): return by_default(4)
        def is_it(): return HANDLERS["a"] is by_default
        def main(runner):
            assert runner.call(called) == 4
            assert runner.call(is_it) and runner.call(Holder().is_it) and runner.call(is_it)
    """)


def test_functions_share_an_object_in_whatever_order_they_are_called(run_script):
    run_script("""
        SHARED = [1]
        def of_default(x=SHARED): return x is SHARED
        def of_keyword(*, x=SHARED): return x is SHARED
        def grown(x=SHARED): x.append(2); return x is SHARED, len(SHARED)
        class Holder:
            held = SHARED
            @classmethod
            def is_held(cls): return cls.held is SHARED
        def main(runner):
            for function in (of_default, of_keyword, Holder.is_held, of_default, of_keyword):
                assert runner.call(function), function
            # What a job did to it stays, whichever function is called next.
            assert runner.call(grown) == (True, 2) and runner.call(of_keyword) and runner.call(grown) == (True, 3)
        """)


def test_functions_share_a_singleton_that_names_itself(run_script):
    run_script("""
        class Unset:
            def __reduce__(self): return "UNSET"
        UNSET = Unset()
        def of_default(x=UNSET): return x is UNSET
        def of_keyword(*, x=UNSET): return x is UNSET
        def main(runner):
            for function in (of_default, of_keyword, of_default):
                assert runner.call(function), function
        """)
