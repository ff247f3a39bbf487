"""From a composed config to objects: the one place that turns a bad setting into one clear line.

The schema of a config node is the signature of what its ``_target_`` names: which settings there are, their
types, choices (``Literal``) and ranges (``ranges.Range``). Nothing is written down twice.
"""

import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range

ALLOWED = ("stn_experiments.", "torch.optim.")
"""A config may build what is defined in these packages, and nothing else."""
ALLOWED_MODULES = tuple(package.rstrip(".") for package in ALLOWED)


def build(node: Any, path: str, kind: Any = Any, **given: Any) -> Any:
    """Call the ``_target_`` of a config node with its settings, and with what the program itself gives.

    Args:
        node: plain dicts and values, interpolations resolved. ``name`` is a label and is passed over.
        path: where the node stands in the config, for messages: ``data.distortion``.
        kind: the type hint of what is wanted.
        given: arguments that are no settings.

    Returns:
        What the target returns; ``None`` where the target is null.

    Raises:
        UserError: an unknown or missing setting, a wrong type, a value out of range, a target that is not
            allowed, or whatever the target itself refuses.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path} must be a config group with a _target_, got {node!r}")
    settings = {key: value for key, value in node.items() if key not in ("_target_", "name")}
    if node["_target_"] is None:
        _refuse_unknown(settings, [], path)
        return check(None, kind, path)
    target = locate(node, path, kind)
    hints = _hints(target)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    _refuse_unknown(settings, [name for name in parameters if name not in given], path)
    values = {key: _value(value, hints.get(key, Any), f"{path}.{key}") for key, value in settings.items()}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in {**values, **given}:
            raise UserError(f"{path}.{name} is missing")
    with settings_of(path):
        built = target(**values, **given)
    return built if get_origin(kind) is Callable else check(built, kind, path)


@contextmanager
def settings_of(path: str) -> Iterator[None]:
    """Where an object built from the config node at ``path`` says what is wrong with its settings."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}.{error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error


def locate(node: Any, path: str, kind: Any = Any) -> Any:
    """The class or function that a config node's ``_target_`` names, if it makes a ``kind``.

    Raises:
        UserError: it names nothing, or what a config may not build.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path} must be a config group with a _target_, got {node!r}")
    name = node["_target_"]
    if not isinstance(name, str) or not name.startswith(ALLOWED):
        raise UserError(f"{path}._target_ must name something in {' or '.join(ALLOWED)}, got {name!r}")
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise UserError(f"{path}._target_ names nothing that exists: {name!r}") from None
    # What a module of ours has itself imported is not ours: os.system must not come in by that door.
    if not callable(target) or not getattr(target, "__module__", "").startswith(ALLOWED_MODULES):
        raise UserError(f"{path}._target_ must name a class or function of its own module, got {name!r}")
    if not _makes(target, kind):
        raise UserError(f"{path}._target_ must name what makes {describe(kind)}, got {name!r}")
    return target


def check(value: Any, hint: Any, path: str) -> Any:
    """``value``, converted where nothing is lost, if it is what the type ``hint`` says.

    Raises:
        UserError: it is not; the line names the setting, what it takes and what it got.
    """
    try:
        return _conform(value, hint)
    except _MismatchError:
        raise UserError(f"{path} must be {describe(hint)}, got {value!r}") from None


def describe(hint: Any) -> str:
    """A type hint in words: ``an integer from 1 to 1024``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *(str(bound) for bound in arguments[1:])])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {describe(arguments[0])}"
    if origin is Mapping:
        return f"a group, each {describe(arguments[1])}"
    names = {
        int: "an integer",
        float: "a number",
        str: "a text",
        bool: "true or false",
        types.NoneType: "null",
    }
    return names.get(hint, "a " + getattr(hint, "__name__", str(hint)))


class _MismatchError(Exception):
    """A value is not of the kind a hint asks for."""


def _makes(target: Any, kind: Any) -> bool:
    """Whether calling ``target`` can give a ``kind``, told without calling it."""
    if kind is Any:
        return True
    if get_origin(kind) in (Union, types.UnionType):
        return any(_makes(target, one) for one in get_args(kind))
    if not inspect.isclass(target):
        return _hints(target).get("return") == kind
    return inspect.isclass(kind) and (getattr(kind, "_is_protocol", False) or issubclass(target, kind))


def _conform(value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _conform(value, arguments[0])
        if any(isinstance(bound, Range) and value not in bound for bound in arguments[1:]):
            raise _MismatchError
        return value
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _conform(value, argument)
            except _MismatchError:
                continue
        raise _MismatchError
    if origin is Literal:
        return _require(value in arguments and not isinstance(value, bool), value)
    if origin is tuple:
        _require(isinstance(value, list) and len(value) == len(arguments), value)
        return tuple(map(_conform, value, arguments))
    if origin is Mapping:
        return _require(isinstance(value, Mapping), value)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        _require(isinstance(value, list), value)
        return [_conform(item, arguments[0]) for item in value]
    if hint is float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), value)
        try:
            return float(value)
        except OverflowError:
            raise _MismatchError from None
    if hint in (int, bool, str, types.NoneType):
        return _require(type(value) is hint, value)
    return _require(not inspect.isclass(hint) or isinstance(value, hint), value)


def _require(condition: bool, value: Any) -> Any:
    if not condition:
        raise _MismatchError
    return value


def _value(value: Any, hint: Any, path: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, path, hint)
    if isinstance(value, Mapping) and get_origin(hint) is Mapping:
        return {key: _value(item, get_args(hint)[1], f"{path}.{key}") for key, item in value.items()}
    return check(value, hint, path)


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a library's hints may name what only its type checker sees
        return {}


def _refuse_unknown(settings: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for key in settings:
        if key not in known:
            choices = f"it has {', '.join(known)}" if known else "it has no settings"
            raise UserError(f"{path}.{key} is not a setting of {path}: {choices}")
