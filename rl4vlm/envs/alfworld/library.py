"""The optional libraries behind the engine, imported where they are needed, with what has to be done around that."""

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

INSTALL = "it comes with this package's extra 'alfworld' (in a checkout: pip install -e '.[alfworld]')"


def require_installed() -> None:
    """Raises ValueError, which says how to install it, when one of the libraries is missing. Imports none of them."""
    for package in ("alfworld", "textworld", "fast_downward"):
        if find_spec(package) is None:
            raise ValueError(_missing(package))


@cache
def load(module: str) -> ModuleType:
    """A module of `alfworld`, `textworld` or `fast_downward`, imported without their side effects.

    `alfworld` makes a folder in the home directory and sets `ALFWORLD_DATA` when it is imported; here it does neither.

    Raises:
        ValueError: the package is not installed; the message says how to.
    """
    with _environment(ALFWORLD_DATA=tempfile.gettempdir()):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(_missing(error.name)) from error


@cache
def textgen() -> ModuleType:
    """TextWorld's text generation, with its parsers' results kept, and at work under Python 3.13 too.

    It parses the same few expressions of the grammar anew for each sentence, which is most of the time of a step. And
    it gives names to `eval` by writing into `locals()`, which Python 3.13 made a copy (PEP 667).
    """
    logic, found = load("textworld.logic"), load("textworld.envs.pddl.textgen")
    keep = lru_cache(maxsize=4096)
    logic._parse_and_convert = keep(logic._parse_and_convert)  # type: ignore[attr-defined]
    parse = keep(found._parse_and_convert)
    # Symbols are written to where they are used, so each use gets a copy.
    found._parse_and_convert = lambda *words, **options: deepcopy(parse(*words, **options))  # type: ignore[attr-defined]

    def derive(symbol: Any, context: Any = None) -> list[Any]:
        names = dict((context or symbol.context)["variables"])
        return [found.TerminalSymbol(eval(symbol.expression, {"__builtins__": {}}, names))]

    found.EvalSymbol.derive = derive
    return found


@cache
def shipped(name: str) -> str:
    """A text that ALFWorld installs: `alfred.pddl`, the domain, or `alfred.twl2`, the grammar."""
    return Path(load("alfworld.info").BUILTIN_DATA_PATH, name).read_text(encoding="utf-8")


def load_translator() -> None:
    """Load Fast Downward's translator ahead of its first use."""
    with _argv_of_its_own():
        load("fast_downward.translate.translate")


def to_sas(domain: str, problem: str, *, optimize: bool = False) -> tuple[Any, bytes]:
    """Fast Downward's translation of a PDDL task: the task and its SAS text.

    `optimize` leaves out what cannot matter to a plan; the engine needs all.

    Raises:
        ValueError: the domain or the problem cannot be read.
    """
    downward, printed = load("fast_downward"), sys.stdout
    try:
        with _argv_of_its_own():
            task, sas = downward.pddl2sas(domain, problem, optimize=optimize)
    except (Exception, SystemExit) as error:
        # Its parser fails in as many ways as a text can be broken, and leaves by sys.exit from some of them.
        raise ValueError(f"is not a planning task ({type(error).__name__}: {error})") from error
    finally:
        sys.stdout = printed  # which it replaces, and after an error leaves so
    return task, sas.encode()


@contextmanager
def _argv_of_its_own() -> Iterator[None]:
    """The translator reads the command line when it is loaded, and writes one of its own when it is used."""
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
