"""The stub of the extension module against the module itself: names, parameters, kinds, defaults."""

import ast
import inspect
from pathlib import Path

import pytest
from kronsparse import _kronsparse

STUB = Path(_kronsparse.__file__).with_name("_kronsparse.pyi")
TREE = ast.parse(STUB.read_text())
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef)}


def parameters_of_stub(node: ast.FunctionDef, skip: int) -> list[tuple[str, str, object]]:
    """Name, kind and default of each parameter, without the first `skip`."""
    arguments = node.args
    found = []
    defaults = [inspect.Parameter.empty] * (len(arguments.args) - len(arguments.defaults))
    defaults += [ast.literal_eval(default) for default in arguments.defaults]
    for argument, default in list(zip(arguments.args, defaults))[skip:]:
        found.append((argument.arg, "positional", default))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        found.append(
            (argument.arg, "keyword", inspect.Parameter.empty if default is None else ast.literal_eval(default))
        )
    return found


def parameters_of_module(function: object, skip: int) -> list[tuple[str, str, object]]:
    found = []
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        kind = "keyword" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else "positional"
        found.append((parameter.name, kind, parameter.default))
    return found


def test_the_stub_lists_exactly_the_names_of_the_module():
    real = {name for name in dir(_kronsparse) if not name.startswith("__")} | {"__version__"}
    stub = set(FUNCTIONS) | set(CLASSES) | {node.target.id for node in TREE.body if isinstance(node, ast.AnnAssign)}
    assert stub == real


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_stub_s_parameters(name):
    function = getattr(_kronsparse, name)
    assert parameters_of_module(function, 0) == parameters_of_stub(FUNCTIONS[name], 0)
    assert function.__doc__, f"{name} says nothing about itself"


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_stub_s_members(name):
    real, stub = getattr(_kronsparse, name), CLASSES[name]
    assert real.__doc__
    members = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    inherited = {"__iter__"}  # made of __getitem__ by the interpreter
    public = {member for member in vars(real) if not member.startswith("_")}
    assert public == {member for member in members if not member.startswith("_")}
    for member, node in members.items():
        if member.startswith("__") and member != "__new__":
            assert member in inherited or hasattr(real, member), member
        elif member == "__new__":
            assert parameters_of_module(real, 0) == parameters_of_stub(node, 1)
        elif any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
            assert inspect.isgetsetdescriptor(vars(real)[member]), member
        else:
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
            function = getattr(real, member)
            assert parameters_of_module(function, 0 if static else 1) == parameters_of_stub(node, 0 if static else 1)


def test_the_package_says_that_it_is_typed_and_names_what_it_has():
    import kronsparse

    assert STUB.with_name("py.typed").exists()
    for name in kronsparse.__all__:
        assert hasattr(kronsparse, name), name
