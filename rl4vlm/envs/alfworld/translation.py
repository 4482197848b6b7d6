"""Translate a game's PDDL problem and grammar, once for any number of starts.

TextWorld's `PddlEnv` translates a game four times per start. Here the same library calls are made once and cached.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import BadGame, GameData, read_game
from rl4vlm.envs.alfworld.library import load, load_translator, shipped, textgen, to_sas
from rl4vlm.envs.alfworld.types import Fact

GAMES_CACHED = 128
"""Number of translated games that a process keeps, about 0.3 MB each."""


@dataclass(frozen=True)
class TranslatedGame:
    """A game that is ready to be started any number of times.

    Attributes:
        game: the game as read from its files.
        logic: TextWorld's logic of the grammar.
        sas: the compressed SAS text of the problem, for Fast Downward.
        parameters: the placeholders of each action.
        types: the type of each object.
        infos: TextWorld's record of each object, which texts use.
        names: the name of each object in facts.
        initial: the propositions that hold at the start.
        commands: cache of the commands derived so far.
        scenes: cache of the descriptions derived so far, by the facts that hold at the place.
    """

    game: GameData
    logic: Any
    sas: bytes
    parameters: Mapping[str, tuple[Any, ...]]
    types: Mapping[str, str]
    infos: Mapping[str, Any]
    names: Mapping[str, str]
    initial: tuple[Any, ...]
    commands: dict[tuple[str, ...], str] = field(default_factory=dict)
    scenes: dict[tuple[Fact, ...], str] = field(default_factory=dict)


def translate_file(file: Path) -> TranslatedGame:
    """Translate a game file. The result is cached until the file changes.

    Raises:
        BadGame: the game cannot be read or translated.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise BadGame(f"{file}: cannot be read ({error.strerror})") from error
    return _translate_version(str(file), status.st_mtime_ns, status.st_size)


def translate(game: GameData) -> TranslatedGame:
    """Translate a game. Raises BadGame if that fails."""
    try:
        task, sas = to_sas(game.domain, game.problem)
    except ValueError as error:
        raise BadGame(f"{game.file}: {error}") from error
    try:
        logic = _logic(game.goalless_grammar)
    except Exception as error:  # TatSu raises many kinds of errors for a malformed grammar
        said = f": {error}" if isinstance(error, ValueError) else ""  # others print the whole grammar
        raise BadGame(f"{game.file}: the grammar cannot be parsed ({type(error).__name__}{said})") from error
    try:
        return _translated(game, logic, task, sas)
    except Exception as error:  # the library does not check that a problem declares what it uses
        raise BadGame(f"{game.file}: the problem is inconsistent ({type(error).__name__}: {error})") from error


def _translated(game: GameData, logic: Any, task: Any, sas: bytes) -> TranslatedGame:
    _learn_types(logic, task)  # the logic is shared by all games of a grammar, and knows only types seen so far
    types = {thing.name: thing.type_name for thing in task.objects}
    initial = _initial_propositions(task, types)
    infos = _infos(initial)
    return TranslatedGame(
        game=game,
        logic=logic,
        sas=zlib.compress(sas, 1),  # level 1 is fast, and repetitive text compresses well even so
        parameters={action.name: tuple(action.parameters) for action in task.actions},
        types=types,
        infos=infos,
        names={name: info.name.strip() for name, info in infos.items()},
        initial=initial,
    )


def _learn_types(logic: Any, task: Any) -> None:
    make = load("textworld.logic").Type
    for found in task.types:
        with suppress(ValueError):  # already added by another game with the same grammar
            logic.types.add(make(found.name, found.supertype_names))


def _initial_propositions(task: Any, types: Mapping[str, str]) -> tuple[Any, ...]:
    logic = load("textworld.logic")
    atom = load("fast_downward").translate.pddl.conditions.Atom
    # Leave out the `x = x` that Fast Downward adds for each object: it is not a fact of the game.
    return tuple(
        logic.Proposition(item.predicate, [logic.Variable(name, types[name]) for name in item.args])
        for item in task.init
        if isinstance(item, atom) and item.predicate != "="
    )


def _infos(initial: Sequence[Any]) -> dict[str, Any]:
    """The names of the objects: `apple 1`, numbered by ALFWorld's own rule in the order of their coordinates."""
    make = load("textworld.generator.game").EntityInfo
    infos = {thing.name: make(thing.name, thing.type) for fact in initial for thing in fact.arguments}
    named = load("alfworld.agents.utils.misc").Demangler(game_infos=infos)
    for info in infos.values():
        info.name, info.definite, info.indefinite = named.demangle_alfred_name(info.id), "the", "a"
    return infos


def load_for_translation() -> None:
    """Load the libraries and parse the grammar that ALFWorld installs. Takes a second or more, once per process."""
    load_translator()
    load("alfworld.agents.utils.misc")
    _logic(shipped("alfred.twl2"))


@lru_cache(maxsize=GAMES_CACHED)
def _translate_version(file: str, changed: int, size: int) -> TranslatedGame:
    """`changed` and `size` are part of the cache's key, so that an edited file is read again."""
    return translate(read_game(Path(file)))


@lru_cache(maxsize=4)
def _logic(grammar: str) -> Any:
    textgen()
    return load("textworld.envs.pddl.logic").GameLogic(domain="", grammar=grammar)
