"""Objects from config nodes, with one clear line for each invalid setting.

The signature of a node's ``_target_`` is its schema: names, types, choices (``Literal``) and ranges
(``ranges.Range``). The ranges of torch's optimisers are in ``config.optimizers``.
"""

import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from stn_experiments.common.errors import UserError
from stn_experiments.config.optimizers import with_ranges
from stn_experiments.config.plugins import allowed, reason

NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}


def build(node: Any, path: str, kind: Any = Any, **given: Any) -> Any:
    """Call the ``_target_`` of a config node with its settings and with further arguments.

    Args:
        node: plain dicts and values, with interpolations resolved. ``name`` is a label and is ignored.
        path: dotted name of the node for error messages, such as ``data.distortion``.
        kind: type hint that the result must match.
        given: further arguments of the target, which are not settings.

    Returns:
        The object, or ``None`` if the target is null.

    Raises:
        UserError: a setting is unknown, missing, of a wrong type or out of range; the target is not allowed,
            or it raises an error itself.
    """
    target_name = _target_name(node, path)
    settings = {key: value for key, value in node.items() if key not in ("_target_", "name")}
    if target_name is None:
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
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in {**values, **given}:
            raise UserError(f"{path}.{key} is missing")
    with settings_of(path):
        built = target(**values, **given)
    return built if get_origin(kind) is Callable else check(built, kind, path)


@contextmanager
def settings_of(path: str) -> Iterator[None]:
    """Put ``path`` in front of the error that an object built from this config node raises."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}.{error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error


def locate(node: Any, path: str, kind: Any = Any) -> Any:
    """The class or function that a config node's ``_target_`` names.

    Raises:
        UserError: it does not exist, does not make a ``kind``, or is not in an allowed package.
    """
    name = _target_name(node, path)
    prefixes = allowed()
    if not isinstance(name, str) or not name.startswith(prefixes):
        others = "; plugins=[PACKAGE] allows another package"
        raise UserError(f"{path}._target_ must begin with {' or '.join(prefixes)}, got {name!r}{others}")
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the code of a plugin may raise any
        raise UserError(f"{path}._target_ cannot be imported: {name!r} ({reason(error)})") from error
    module = getattr(target, "__module__", "")  # a module imports others' classes too
    is_own = f"{module}.".startswith(prefixes)
    if not is_own or not _makes(target, kind):
        raise UserError(f"{path}._target_ must make {describe(kind)}, got {name!r}")
    return target


def check(value: Any, hint: Any, path: str) -> Any:
    """``value`` as the type ``hint`` says: integers become floats, lists become tuples where it says so.

    Raises:
        UserError: ``value`` does not match. The line has the setting, what it takes and what it got.
    """
    try:
        return _conform(value, hint)
    except (ValueError, OverflowError):
        raise UserError(f"{path} must be {describe(hint)}, got {value!r}") from None


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a class or function by its type hints; others than its own are ignored.

    Raises:
        UserError: one does not match, see :func:`check`.
    """
    for name, hint in _hints(target).items():
        if name in arguments:
            check(arguments[name], hint, name)


def describe(hint: Any) -> str:
    """A type hint in words, such as ``an integer from 1 to 1024``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *(str(bound) for bound in arguments[1:])])
    if origin is Literal:
        words = [
            str(argument).lower() if isinstance(argument, bool) else str(argument) for argument in arguments
        ]
        return ("one of " if len(words) > 1 else "") + ", ".join(words)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {describe(arguments[0])}"
    if origin is Mapping:
        return f"a group, each {describe(arguments[1])}"
    return NAMES.get(hint, "a " + getattr(hint, "__name__", str(hint)))


def _target_name(node: Any, path: str) -> Any:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path} must be a config group with a _target_, got {node!r}")
    return node["_target_"]


def _makes(target: Any, kind: Any) -> bool:
    """Whether ``target`` returns a ``kind``, by its type hints."""
    if kind is Any:
        return True
    if get_origin(kind) in (Union, types.UnionType):
        return any(_makes(target, one) for one in get_args(kind))
    if not inspect.isclass(target):
        return _hints(target).get("return") == kind
    return inspect.isclass(kind) and (getattr(kind, "_is_protocol", False) or issubclass(target, kind))


def _conform(value: Any, hint: Any) -> Any:
    """``value`` as a type hint says; a ValueError or an OverflowError if it does not match."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _conform(value, arguments[0])
        return _require(all(value in bound for bound in arguments[1:]), value)
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _conform(value, argument)
            except (ValueError, OverflowError):
                continue
        raise ValueError(value)
    if origin is Literal:
        return _require(any(type(value) is type(one) and value == one for one in arguments), value)
    if origin is tuple:
        _require(isinstance(value, list | tuple) and len(value) == len(arguments), value)
        return tuple(map(_conform, value, arguments))
    if origin is Mapping:
        return _require(isinstance(value, Mapping), value)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        _require(isinstance(value, list | tuple), value)
        return [_conform(item, arguments[0]) for item in value]
    if hint is float:
        return float(_require(type(value) in (int, float), value))
    if hint in (int, bool, str, types.NoneType):
        return _require(type(value) is hint, value)
    return _require(not inspect.isclass(hint) or isinstance(value, hint), value)


def _require(condition: bool, value: Any) -> Any:
    if not condition:
        raise ValueError(value)
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
        return with_ranges(target, get_type_hints(function, include_extras=True))
    except (NameError, TypeError):  # a library's hints may need imports for type checkers only
        return {}


def _refuse_unknown(settings: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for key in settings:
        if key not in known:
            choices = f"it has {', '.join(known)}" if known else "it has no settings"
            near = get_close_matches(str(key), known, 1)
            question = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{path}.{key} is not a setting of {path}: {choices}{question}")
