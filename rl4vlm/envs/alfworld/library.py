"""The optional libraries behind the engine: imported when they are needed, with workarounds for their side effects."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rl4vlm.envs.alfworld.expression import check_expression, expression_value

INSTALL = "it comes with this package's extra 'alfworld' (in a checkout: pip install -e '.[alfworld]')"


def require_installed() -> None:
    """Raise a ValueError that says how to install the libraries if one is missing. Imports none of them."""
    for package in ("alfworld", "textworld", "fast_downward"):
        if find_spec(package) is None:
            raise ValueError(_missing(package))


@cache
def load(module: str) -> ModuleType:
    """Import a module of `alfworld`, `textworld` or `fast_downward` without their side effects.

    Raises:
        ValueError: the package is not installed; the message says how to install it.
    """
    # On import, `alfworld` creates a folder in the home directory and sets ALFWORLD_DATA, unless it is set.
    with _environment(ALFWORLD_DATA=tempfile.gettempdir()):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(_missing(error.name)) from error


@cache
def textgen() -> ModuleType:
    """TextWorld's text generation, patched to cache parsed expressions and to run none of them."""
    # Unpatched, it parses the same few expressions for every sentence, which takes most of the time of a step.
    logic, found = load("textworld.logic"), load("textworld.envs.pddl.textgen")
    keep = lru_cache(maxsize=4096)
    logic._parse_and_convert = keep(logic._parse_and_convert)  # type: ignore[attr-defined]
    parse = keep(found._parse_and_convert)
    # Derivation writes to the parsed symbols, so each use gets a copy of the cached ones.
    found._parse_and_convert = lambda *words, **options: deepcopy(parse(*words, **options))  # type: ignore[attr-defined]

    class Expression(found.EvalSymbol):  # type: ignore[name-defined]
        """An expression that is computed without `eval`, and checked when the grammar is parsed."""

        def __init__(self, expression: str, context: Any = None) -> None:
            check_expression(expression)
            super().__init__(expression, context or {})

        def derive(self, context: Any = None) -> list[Any]:
            return [found.TerminalSymbol(expression_value(self.expression, (context or self.context)["variables"]))]

    found.EvalSymbol = Expression  # type: ignore[attr-defined]
    return found


@cache
def shipped(name: str) -> str:
    """A text file that ALFWorld ships: `alfred.pddl`, the domain, or `alfred.twl2`, the grammar."""
    return Path(load("alfworld.info").BUILTIN_DATA_PATH, name).read_text(encoding="utf-8")


def load_translator() -> None:
    """Load Fast Downward's translator ahead of its first use."""
    with _translator_argv():
        load("fast_downward.translate.translate")


def to_sas(domain: str, problem: str, *, optimize: bool = False) -> tuple[Any, bytes]:
    """Translate a PDDL task with Fast Downward.

    Args:
        domain: text of the PDDL domain.
        problem: text of the PDDL problem.
        optimize: leave out what a plan cannot need. The engine needs everything.

    Returns:
        The task and its SAS text.

    Raises:
        ValueError: the domain or the problem is malformed.
    """
    downward, printed = load("fast_downward"), sys.stdout
    try:
        with _translator_argv():
            task, sas = downward.pddl2sas(domain, problem, optimize=optimize)
    except (Exception, SystemExit) as error:
        # Its parser raises many kinds of errors for malformed texts and calls sys.exit for some.
        raise ValueError(f"is not a planning task ({type(error).__name__}: {error})") from error
    finally:
        sys.stdout = printed  # the translator replaces it, and does not restore it after an error
    return task, sas.encode()


@contextmanager
def _translator_argv() -> Iterator[None]:
    """Protect `sys.argv`: the translator parses it when it is loaded and overwrites it when it is called."""
    before = sys.argv
    sys.argv = ["translate.py", "domain", "task"]
    try:
        yield
    finally:
        sys.argv = before


def _missing(package: str | None) -> str:
    return f"ALFWorld needs the package {package!r}, which is not installed: {INSTALL}"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
