"""Edits as text, for command lines and other programs' configurations."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from depthsig.engine.edits.base import Edit, edit_types
from depthsig.errors import InputError, shown


def parse_edit(text: str | None) -> Edit | None:
    """``Skip(5)+Repeat(4,8,times=2)`` as an edit; only calls of known edits with plain numbers and names.

    Raises:
        InputError: for anything else.

    >>> str(parse_edit("Skip(5) + Skip(6, part='attn')"))
    'skip 5 + skip 6.attn'
    """
    if not text:
        return None
    known = {name: kind for name, kind in edit_types().items() if kind.from_text}
    try:
        calls = list(_calls(ast.parse(text.strip(), mode="eval").body, set(known)))
        found = [known[name](*args, **kwargs) for name, args, kwargs in calls]
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"edit {shown(text)} cannot be read ({error}); it is a sum of {', '.join(known)}, as in Skip(5)+Swap(3,7)"
        ) from None
    return sum(found[1:], found[0])


def _calls(node: ast.expr, known: set[str]) -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _calls(node.left, known)
        yield from _calls(node.right, known)
        return
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known):
        raise ValueError("not a sum of edits")
    kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
    yield node.func.id, [ast.literal_eval(a) for a in node.args], kwargs
