"""What a call reaches: the definitions it needs, the values that these read, and nothing more."""

import pytest

from cw.client.functions.functions import FunctionTable
from cw.errors import NotPicklable
from cw.payloads import script as the_script
from cw.payloads.reach import Definition, Reach


@pytest.fixture
def reach(script):
    """Runs a script; what its function `f` reaches."""

    def run(code, name="f"):
        script(code)
        found = Reach(Definition)
        found.add([name], ())
        return found

    return run


def labels(reach):
    return sorted(place.label for place in reach.places.values())


def constants(reach):
    return {name: value for (key, name), value in reach.constants.items() if key == "__main__"}


@pytest.mark.parametrize(
    ("code", "definitions", "places"),
    [
        ("def f(): pass\ndef g(): pass", "f", []),
        ("A = []\ndef f(): return A", "f", ["A"]),
        ("A = []\ndef f(): return (lambda: A)()", "f", ["A"]),
        ("A = []\ndef f(): return [A for _ in range(3)]", "f", ["A"]),
        ("A = []\ndef f():\n    class C:\n        def m(self): return A", "f", ["A"]),
        ("A = []\ndef g(): return A\ndef f(): return g()", "f g", ["A"]),
        ("A = []\nclass C:\n    def m(self): return A\ndef f(): return C()", "f C", ["A"]),
        ("A = []\nclass B:\n    def m(self): return A\nclass C(B): pass\ndef f(): return C", "f C B", ["A"]),
        ("A = []\nclass M(type):\n    def __call__(cls): return A\nclass C(metaclass=M): pass\ndef f(): C", "f C M",
         ["A"]),
        ("A = []\nclass C:\n    @property\n    def p(self): return A\ndef f(): return C", "f C", ["A"]),
        ("A = []\nclass C:\n    @staticmethod\n    def p(): return A\ndef f(): return C", "f C", ["A"]),
        ("A = []\nclass C:\n    @classmethod\n    def p(cls): return A\ndef f(): return C", "f C", ["A"]),
        ("A = []\nclass Outer:\n    class Inner:\n        def m(self): return A\ndef f(): Outer", "f Outer", ["A"]),
        ("A = []\ndef g(): return A\nT = {'g': g}\ndef f(): return T", "f", ["T"]),
        ("def f(a=[]): pass", "f", ["a default of f()"]),
        ("def f(*, a=[]): pass", "f", ["the default 'a' of f()"]),
        ("def f(): pass\nf.seen = []", "f", ["f.seen"]),
        ("class C:\n    seen = []\ndef f(): return C", "f C", ["C.seen"]),
        ("class C:\n    class D:\n        seen = []\ndef f(): return C", "f C", ["C.D.seen"]),
        ("class C:\n    def m(self, x=[]): pass\ndef f(): return C", "f C", ["a default of C.m()"]),
        ("def g(): return f()\ndef f(): return g()", "f g", []),
        ("import abc\nclass C(abc.ABC):\n    @abc.abstractmethod\n    def m(self): pass\ndef f(): return C", "f C", []),
    ],
)  # fmt: skip
def test_definitions_and_places_are_followed(reach, code, definitions, places):
    found = reach(code)
    assert sorted(found.definitions) == sorted(definitions.split())
    assert labels(found) == places


def test_constants_travel_with_the_function(reach):
    found = reach(
        "import json\nfrom math import pi\nA, B, C = 1, ('x', 2), 5\ndef f(): return json, pi, A, B"
    )
    assert {"json", "pi", "A", "B"} == constants(found).keys()
    assert not found.places


def test_what_only_others_read_is_not_reached(reach):
    found = reach(
        "FRAME = [0] * 1000\nEXECUTOR = object()\ndef main(): return FRAME, EXECUTOR\ndef f(): return 1"
    )
    assert not found.places and not constants(found) and list(found.definitions) == ["f"]


def test_attributes_of_modules_are_modules_to_import(reach):
    found = reach("import xml\nimport xml.dom\ndef f(): return xml.dom.Node")
    assert "xml.dom" in found.modules


def test_an_annotation_drags_nothing_in(reach):
    found = reach(
        "import dataclasses\nTABLE = [1]\nclass Other: pass\n"
        "@dataclasses.dataclass\nclass Node:\n    next: 'Node | None' = None\n    other: 'Other | TABLE' = None\n"
        "def f(x: 'TABLE', y: Other) -> 'nowhere': return Node"
    )
    assert "TABLE" not in labels(found)


def test_a_definition_keeps_its_version_until_it_changes(script):
    names = script("A = 1\nclass C:\n    x = 1\n    def m(self): return A")
    definition = Definition("C", names["C"])
    version = definition.version
    assert definition.is_current(names["C"])
    definition.renew()
    assert definition.version == version
    names["C"].x = 2
    assert not definition.is_current(names["C"])
    definition.renew()
    assert definition.version > version


def test_names_in_a_pickle_are_found(script):
    import pickle

    names = script("class A:\n    class B: pass\nclass C: pass\nC2 = C\ndef f(): pass\nD = 1")
    values = [names["A"].B(), names["C"], names["C"](), names["f"], "C", "D"]
    assert set(the_script.names_in(pickle.dumps(values, 5))) == {"A", "C", "f"}
    assert the_script.names_in(pickle.dumps(["A", b"__main__"], 5)) in ((), ("A",))  # more is allowed


def test_the_submit_is_refused_only_if_the_function_itself_reads_what_cannot_be_pickled(script):
    names = script(
        "import threading\nLOCK = threading.Lock()\ndef g(): return LOCK\ndef f(): return g\ndef h(x=LOCK): pass\n"
        "class C:\n    lock = LOCK\n    def m(self): return LOCK\n    def n(self): return self.lock"
    )
    table = FunctionTable()
    for function in names["g"], names["h"], names["C"]().m:
        with pytest.raises(NotPicklable, match="lock"):
            table.call(function, (), {})
    for function in names["f"], names["C"]().n:
        table.call(function, (), {})


def test_a_class_attribute_that_cannot_be_pickled_says_so_when_it_is_read(runner, script):
    names = script(
        "import threading\nclass C:\n    lock = threading.Lock()\n"
        "    def n(self): return 3\n    def m(self): return self.lock"
    )
    assert runner.call(names["C"]().n) == 3
    with pytest.raises(AttributeError, match=r"C\.lock.*cannot be pickled"):
        runner.call(names["C"]().m)
