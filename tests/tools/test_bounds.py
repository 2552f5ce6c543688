from __future__ import annotations

from tools.bounds import faults, sizes

SHORT = "def f():\n    return 1\n"
LONG = "class A:\n    async def f(self):\n" + "        x = 1\n" * 50


def names(source: str) -> list[str]:
    return [f"{size.name} {size.lines}" for size in sizes("a.py", source)]


def test_files_classes_and_functions_are_measured() -> None:
    assert names(LONG) == ["a.py 52", "a.py::A 52", "a.py::A.f 51"]


def test_a_docstring_does_not_count_for_its_function() -> None:
    assert names('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n') == ["a.py 6", "a.py::f 2"]


def test_functions_inside_functions_and_conditions_are_measured() -> None:
    assert names("def f():\n    if x:\n        def g():\n            pass\n") == ["a.py 4", "a.py::f 4", "a.py::f.g 2"]


def test_what_is_too_large_is_a_fault_that_says_what_to_do() -> None:
    [fault] = faults(sizes("a.py", LONG), {})
    assert fault.startswith("a.py::A.f: a function of 51 lines, the bound is 50; split it")


def test_a_reason_excuses() -> None:
    assert faults(sizes("a.py", LONG), {"a.py::A.f": "one table"}) == []


def test_a_reason_that_nothing_needs_is_a_fault() -> None:
    [fault] = faults(sizes("a.py", SHORT), {"a.py::f": "one table"})
    assert "not too large any more" in fault
