"""Claims read from source text: what a file declares, without running it and so without importing torch."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from assay.lab.claim import ClaimError, ClaimOutline, Tune, sizes
from assay.lab.criterion import CRITERIA, Criterion


def parsed(text: str, path: str) -> ast.Module:
    """The syntax tree of a claim file.

    Raises:
        ClaimError: it is no Python; says where.
    """
    try:
        return ast.parse(text, path)
    except SyntaxError as error:
        raise ClaimError(f"{path}:{error.lineno}: {error.msg}") from None


def outlines(text: str, path: str, *, paper: str | None = None) -> Iterator[ClaimOutline]:
    """The claims that a source text declares, optionally those of one paper."""
    tree = parsed(text, path)
    constants = _constants(tree)
    for function, key in declarations(tree):
        if paper is not None and key != paper:
            continue
        call = _decorator(function)
        assert call is not None
        values: dict[str, Any] = {}
        for keyword in call.keywords:
            name = keyword.arg or ""
            try:
                if name == "holds":
                    values[name] = evaluate(keyword.value, constants)
                elif name == "tune":
                    values[name] = _tuning(keyword.value, constants)
                else:
                    values[name] = _literal(keyword.value, constants)
            except ValueError as error:
                raise ClaimError(f"{path}:{keyword.value.lineno}: {name}= of claim {function.name}: {error}") from None
        laptop = {
            argument.arg: _literal(default, constants)
            for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            if default is not None
        }
        smoke, full = values.pop("smoke", None), values.pop("paper", None)
        for name in ("arms", "left_out"):
            values[name] = tuple(values.get(name, ()))
        yield ClaimOutline(
            id=function.name,
            paper=key,
            sizes=sizes(function.name, laptop, smoke, full),
            doc=ast.get_docstring(function) or "",
            source=ast.get_source_segment(text, function, padded=False) or "",
            **values,
        )


def _tuning(node: ast.expr, constants: Mapping[str, Any]) -> Tune:
    if not isinstance(node, ast.Call):
        return Tune(_literal(node, constants))
    arguments = [_literal(each, constants) for each in node.args]
    return Tune(*arguments, **{each.arg or "": _literal(each.value, constants) for each in node.keywords})


def declarations(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            call = _decorator(node)
            if call is not None and call.args and isinstance(call.args[0], ast.Constant):
                yield node, str(call.args[0].value)


def _decorator(function: ast.FunctionDef) -> ast.Call | None:
    for node in function.decorator_list:
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "claim":
                return node
    return None


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Module-level names bound to literals, which a declaration may refer to."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = _literal(node.value, found)
            except ValueError:
                continue
    return found


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """A literal, a name of a literal, `dict(...)` of such, or two dicts joined by `|`."""
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {each.arg: _literal(each.value, constants) for each in node.keywords if each.arg}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _literal(node.left, constants), _literal(node.right, constants)
        if isinstance(left, dict) and isinstance(right, dict):
            return left | right
    if isinstance(node, ast.Tuple | ast.List):
        items: list[Any] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                items.extend(_literal(each.value, constants))
            else:
                items.append(_literal(each, constants))
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict):
        return {
            _literal(key, constants): _literal(value, constants)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"must be a literal or a name of one, not {ast.unparse(node)!r}") from None


def evaluate(node: ast.expr, constants: Mapping[str, object]) -> Criterion:
    """The criterion that an expression of a claim file stands for, read without running anything.

    Allowed are the names of this module (also as `lab.higher`), literals, tuples, lists, dictionaries, a starred list
    among arguments, arithmetic on numbers, and names found in `constants`. Everything else is a `ValueError` that
    names the line.

    >>> tree = ast.parse('higher("accuracy", ARMS[0] if 0 else "cmd", than="sgd")', mode="eval")
    >>> evaluate(tree.body, {})
    Traceback (most recent call last):
    ValueError: line 1: `ARMS[0] if 0 else 'cmd'` is not allowed in a criterion
    >>> tree = ast.parse('lab.higher("accuracy", "cmd", than="sgd", by=-MARGIN / 2)', mode="eval")
    >>> evaluate(tree.body, {"MARGIN": 0.01})
    higher(measure='accuracy', arm='cmd', than='sgd', by=-0.005)
    """
    value = _read(node, constants)
    if not isinstance(value, Criterion):
        raise _refused(node, f"expected a criterion ({', '.join(CRITERIA)}), got {value!r}")
    return value


def _read(node: ast.expr, constants: Mapping[str, object]) -> object:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            if name not in constants:
                known = ", ".join(sorted(constants)) or "none"
                raise _refused(node, f"{name!r} is not a constant of this file (there are: {known})")
            return constants[name]
        case ast.Tuple(elts=elements):
            return tuple(_read_all(elements, constants))
        case ast.List(elts=elements):
            return _read_all(elements, constants)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            named = [key for key in keys if key is not None]
            return {_read(k, constants): _read(v, constants) for k, v in zip(named, values, strict=True)}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _read_number(operand, constants)
            return -number if isinstance(sign, ast.USub) else number
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as sign, left=left, right=right):
            try:
                return _OPERATIONS[type(sign)](_read_number(left, constants), _read_number(right, constants))
            except ArithmeticError as error:
                raise _refused(node, f"`{ast.unparse(node)}`: {error}") from None
        case ast.Call(func=function, args=arguments, keywords=keywords) if name := _criterion_name(function):
            positional = _read_all(arguments, constants)
            named_ones = {}
            for keyword in keywords:
                if keyword.arg is None:
                    raise _refused(node, "`**` is not allowed in a criterion")
                named_ones[keyword.arg] = _read(keyword.value, constants)
            try:
                return CRITERIA[name](*positional, **named_ones)
            except (TypeError, ValueError) as error:
                raise _refused(node, str(error)) from error
        case _:
            raise _refused(node, f"`{ast.unparse(node)}` is not allowed in a criterion")


_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _read_all(nodes: list[ast.expr], constants: Mapping[str, object]) -> list[object]:
    values: list[object] = []
    for node in nodes:
        if not isinstance(node, ast.Starred):
            values.append(_read(node, constants))
            continue
        several = _read(node.value, constants)
        if not isinstance(several, list | tuple):
            raise _refused(node, f"only a list or a tuple can be starred, got {several!r}")
        values.extend(several)
    return values


def _read_number(node: ast.expr, constants: Mapping[str, object]) -> float | int:
    value = _read(node, constants)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(node, f"arithmetic in a criterion is on numbers only, got {value!r}")
    return value


def _criterion_name(function: ast.expr) -> str:
    """`higher` of `higher` and of `lab.higher`; empty where it is no criterion."""
    name = ""
    if isinstance(function, ast.Name):
        name = function.id
    elif isinstance(function, ast.Attribute):
        name, base = function.attr, function.value
        while isinstance(base, ast.Attribute):
            base = base.value
        if not isinstance(base, ast.Name):
            return ""
    return name if name in CRITERIA else ""


def _refused(node: ast.expr, why: str) -> ValueError:
    return ValueError(f"line {node.lineno}: {why}")
