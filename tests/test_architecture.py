"""The structure that docs/architecture.md describes, checked against the code."""

import ast

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "stn_experiments"
LEVELS = (
    {"report"},
    {"sweeps"},
    {"runs"},
    {"training", "evaluation", "tracking"},
    {"models", "data", "storage"},
    {"cli"},
    {"config"},
    {"common"},
)
"""The rooms of the package. Imports lead to a lower level."""
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
SOURCES = [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]
LONGEST = 60  # lines of a function


def imported_modules(path):
    """The dotted names of all modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rooms_of(path):
    names = [name.split(".") for name in imported_modules(path) if name.startswith("stn_experiments.")]
    return {parts[1] for parts in names if parts[1] in LEVEL}


def name_of(path):
    return str(path.relative_to(ROOT))


def test_nothing_is_outside_a_room():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    assert {path.parent.name for path in MODULES} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_lead_down(path):
    room = path.relative_to(PACKAGE).parts[0]
    for other in rooms_of(path) - {room}:
        assert LEVEL[other] > LEVEL[room], f"{room} must not import {other}"


@pytest.mark.parametrize(
    ("room", "foreign"),
    [("data", {"models", "hydra"}), ("models", {"data", "hydra", "tensorboard"})],
)
def test_data_and_models_do_not_know_each_other(room, foreign):
    for path in (PACKAGE / room).glob("*.py"):
        parts = {part for name in imported_modules(path) for part in name.split(".")}
        assert not parts & foreign, path


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_private_module_is_imported_and_no_function_is_longer_than_a_screen(path):
    assert not [name for name in imported_modules(path) if "._" in name]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < LONGEST, node.name


def test_the_tests_mirror_the_package():
    """Each folder of tests is a room or the scripts."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert folders == set(LEVEL) | {"scripts"}


def test_only_one_module_patches_libraries():
    patches = [path for path in SOURCES if "setattr(" in path.read_text()]
    assert [name_of(path) for path in patches] == ["stn_experiments/cli/workarounds.py"]
