"""One game running in ALFWorld's own engine: its PDDL domain, its grammar, Fast Downward's state.

TextWorld's `PddlEnv` translates a game four times for one start and parses its grammar anew for each sentence. Here
the same library calls are made once a game, and kept, so that starting a game again and taking a step cost
milliseconds. `tests/envs/alfworld/test_engine.py` compares every sentence and command with the unchanged `PddlEnv`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import GameData, read_game
from rl4vlm.envs.alfworld.goals import share_met
from rl4vlm.envs.alfworld.library import load, load_translator, shipped, textgen, to_sas
from rl4vlm.envs.alfworld.types import Fact, Situation

ILLEGAL = "Nothing happens."
"""What the engine says to a command that is not admissible; it counts as a step."""

GAMES_KEPT = 128
"""Translated games that a process keeps for the next start: about 0.3 MB each."""

SCENES_KEPT = 1000
"""Descriptions that are kept of a game, a few kilobytes each at most."""

_RULES = ("cancontain", "objecttype", "receptacletype")
"""What never changes and is said by a thing's name or by the admissible commands: left out of `Situation.facts`."""


@dataclass(frozen=True)
class EngineState:
    """What an engine can be put back to exactly: the game and the commands that were given."""

    game_file: str
    commands: tuple[str, ...]


class Engine:
    """Runs one game at a time, in this process. `close` leaves the library's copy to the next engine."""

    def __init__(self) -> None:
        self._downward: Any = None
        self._play: _Play | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Begin a game anew.

        Raises:
            ValueError: the game cannot be read or translated; the message names its file.
        """
        translated = _translated(str(game_file), *_version(Path(game_file)))
        if self._downward is None:
            self._downward = _borrow_downward()
        self._play = _Play(self._downward, translated)
        return self._play.situation(self._play.welcome())

    def act(self, command: str) -> Situation:
        """Give a command; one that is not admissible is answered by `ILLEGAL` and changes nothing but the count.

        Raises:
            ValueError: no game has been started, or it is over.
        """
        play = self._running()
        if play.won:
            raise ValueError(f"{play.translated.game.file}: the game is over")
        return play.situation(play.act(command))

    def state(self) -> EngineState:
        """What `restore` needs to come back here."""
        play = self._running()
        return EngineState(str(play.translated.game.file), tuple(play.commands))

    def restore(self, state: EngineState) -> Situation:
        """Begin the game of `state` anew and give its commands again; the engine knows no chance."""
        situation = self.start(state.game_file)
        play = self._running()
        for command in state.commands[:-1]:
            play.act(command)
        return self.act(state.commands[-1]) if state.commands else situation

    def close(self) -> None:
        """Give back the library's copy. The engine can be started again."""
        self._play = None
        if self._downward is not None:
            _give_back_downward(self._downward)
            self._downward = None

    def _running(self) -> _Play:
        if self._play is None:
            raise ValueError("no game has been started")
        return self._play


def solve(game: GameData) -> tuple[str, ...] | None:
    """Commands that win a game, found by ALFWorld's planner; None when there are none.

    A blind search: seconds for a small game, minutes for a large one. The plan depends on Python's hash seed.

    Raises:
        ValueError: the game cannot be translated; the message names its file.
    """
    translated = _translate(game)
    downward = _borrow_downward()
    try:
        return _Play(downward, translated).plan()
    finally:
        _give_back_downward(downward)


def solve_and_check(game: GameData) -> tuple[str, ...] | None:
    """`solve`, and what it found played to its end: None as well when the engine does not say that it wins.

    Raises:
        ValueError: the game cannot be translated; the message names its file.
    """
    commands = solve(game)
    if not commands:
        return None
    downward = _borrow_downward()
    try:
        play = _Play(downward, _translate(game))
        answers = [play.act(command) for command in commands]
        return commands if play.won and ILLEGAL not in answers else None
    finally:
        _give_back_downward(downward)


def warm_up() -> None:
    """Do what the first game of a process takes a second or more for: load the libraries, parse their grammar."""
    load_translator()
    load("alfworld.agents.utils.misc")
    load("textworld.generator.game")
    _logic(shipped("alfred.twl2"))


_idle_downward: list[Any] = []
"""Copies of Fast Downward's library that no engine uses. One holds one game; none can be unloaded without a crash."""


def _borrow_downward() -> Any:
    return _idle_downward.pop() if _idle_downward else load("fast_downward").load_lib()


def _give_back_downward(downward: Any) -> None:
    downward.cleanup()
    _idle_downward.append(downward)


@dataclass(frozen=True)
class _Translated:
    """A game as the engine needs it, ready to be started any number of times.

    `parameters` are each action's placeholders, `types` each thing's type, `infos` and `names` what it is called in
    texts and in facts; `initial` are the propositions that hold at the start, as far as the library's state does not
    know them. `commands` and `scenes` are texts that were derived before.
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


def _version(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=GAMES_KEPT)
def _translated(file: str, changed: int, size: int) -> _Translated:
    """A game's translation; `changed` and `size` tell a file from what it was before."""
    return _translate(read_game(Path(file)))


@lru_cache(maxsize=4)
def _logic(grammar: str) -> Any:
    textgen()
    return load("textworld.envs.pddl.logic").GameLogic(domain="", grammar=grammar)


def _translate(game: GameData) -> _Translated:
    try:
        task, sas = to_sas(game.domain, game.problem)
    except ValueError as error:
        raise ValueError(f"{game.file}: {error}") from error
    try:
        logic = _logic(game.goalless_grammar)
    except Exception as error:  # whatever TatSu raises for a grammar that it cannot parse
        raise ValueError(f"{game.file}: the grammar cannot be parsed ({type(error).__name__})") from error
    _learn_types(logic, task)
    types = {thing.name: thing.type_name for thing in task.objects}
    initial = _initial_propositions(task, types)
    infos = _infos(initial)
    return _Translated(
        game=game,
        logic=logic,
        sas=zlib.compress(sas, 1),
        parameters={action.name: tuple(action.parameters) for action in task.actions},
        types=types,
        infos=infos,
        names={name: info.name.strip() for name, info in infos.items()},
        initial=initial,
    )


def _learn_types(logic: Any, task: Any) -> None:
    make = load("textworld.logic").Type
    for found in task.types:
        with suppress(ValueError):  # it is known, from another game of the same grammar
            logic.types.add(make(found.name, found.supertype_names))


def _initial_propositions(task: Any, types: Mapping[str, str]) -> tuple[Any, ...]:
    logic = load("textworld.logic")
    atom = load("fast_downward").translate.pddl.conditions.Atom
    return tuple(
        logic.Proposition(item.predicate, [logic.Variable(name, types[name]) for name in item.args])
        for item in task.init
        if isinstance(item, atom) and item.predicate != "="
    )


def _infos(initial: Sequence[Any]) -> dict[str, Any]:
    """What each thing is called: ALFWorld's own numbering, `apple 1`, in the order of the things' coordinates."""
    make = load("textworld.generator.game").EntityInfo
    infos = {thing.name: make(thing.name, thing.type) for fact in initial for thing in fact.arguments}
    named = load("alfworld.agents.utils.misc").Demangler(game_infos=infos)
    for info in infos.values():
        info.name, info.definite, info.indefinite = named.demangle_alfred_name(info.id), "the", "a"
    return infos


class _Play:
    """One run of a game: TextWorld's state for the grammar's questions, the library's for what can be done."""

    def __init__(self, downward: Any, translated: _Translated) -> None:
        self.translated = translated
        self.commands: list[str] = []
        self._downward = downward
        logic = load("textworld.logic")
        self._state = logic.State(logic.GameLogic())
        self._state._logic = translated.logic  # which `State` would refuse: it is the PDDL backend's class of this name
        self._state.add_facts(translated.initial)
        downward.load_sas(zlib.decompress(translated.sas))
        atoms = (_atom_type() * downward.get_state_size())()
        downward.get_state(atoms)
        self._state.add_facts(fact for fact in map(self._proposition, atoms) if not fact.name.startswith("not_"))
        self._facts = {fact for fact in map(self._fact, self._state.facts) if _is_told(fact)}
        self._denied: set[Fact] = set()  # `not_…` facts: texts may ask for them, but only for those that became so
        self._look_around()

    def act(self, command: str) -> str:
        """Give a command; what the engine says to it."""
        self.commands.append(command)
        operator = self._admissible.get(command)
        if operator is None:
            return ILLEGAL
        effects = (_atom_type() * operator.nb_effect_atoms)()
        self._downward.apply_operator(operator.id, effects)
        for proposition in map(self._proposition, effects):
            self._change(proposition)
        self._look_around()
        action, *things = operator.name.split()
        return self._say(self.translated.logic.actions[action].feedback_rule, action, things)

    def situation(self, feedback: str) -> Situation:
        game, facts = self.translated.game, tuple(sorted(self._facts))
        location = next(fact[2] for fact in facts if fact[0] == "atlocation")
        walkthrough, given = game.walkthrough or (), len(self.commands)
        on_walkthrough = given < len(walkthrough) and list(walkthrough[:given]) == self.commands
        return Situation(
            feedback=feedback,
            scene=self._scene,
            goal_text=game.goal_text,
            admissible=tuple(sorted(self._admissible)),
            facts=facts,
            location=location,
            at=tuple(fact[1] for fact in facts if fact[0] == "receptacleatlocation" and fact[2] == location),
            held=next((fact[2] for fact in facts if fact[0] == "holds"), None),
            won=self.won,
            done=self.won,
            steps=given,
            conditions_met=share_met(game.goal, facts),
            goal=game.goal,
            game_file=str(game.file),
            source=game.source,
            next_command=walkthrough[given] if on_walkthrough else None,
        )

    def welcome(self) -> str:
        """The engine's first words: the room and the task."""
        return self.translated.game.with_goal(self._say("#intro#", "", []))

    def plan(self) -> tuple[str, ...] | None:
        """Commands that lead from here to the goal, by the library's planner; None when there are none."""
        game, downward = self.translated.game, self._downward
        _, sas = to_sas(game.domain, game.problem, optimize=True)
        downward.load_sas_replan(sas)
        if not downward.replan(False):
            return None
        operators = (_operator_type() * downward.get_last_plan_length())()
        downward.get_last_plan(operators)
        return tuple(self._command(*operator.name.split()) for operator in operators)

    def _look_around(self) -> None:
        """Note what can be done from here and whether the game is won."""
        self.won = bool(self._downward.check_goal())
        operators = (_operator_type() * self._downward.get_applicable_operators_count())()
        self._downward.get_applicable_operators(operators)
        by_name = {operator.name: operator for operator in operators}
        # Several operators may have one command; they lead to the same. The first by name, whatever their order.
        self._admissible: dict[str, Any] = {}
        for name in sorted(by_name):
            self._admissible.setdefault(self._command(*name.split()), by_name[name])
        self._scene = self._kept_description(sorted(by_name))

    def _kept_description(self, operators: Sequence[str]) -> str:
        """The description, derived anew only where something here is not as it was in any earlier visit."""
        location = next(fact[2] for fact in self._facts if fact[0] == "atlocation")
        here = {fact[1] for fact in self._facts if fact[0] == "receptacleatlocation" and fact[2] == location}
        here.add(location)
        known = (fact for facts in (self._facts, self._denied) for fact in facts if fact[0] != "checked")
        key = tuple(sorted(fact for fact in known if not here.isdisjoint(fact)))
        scenes = self.translated.scenes
        if key not in scenes:
            if len(scenes) >= SCENES_KEPT:
                scenes.clear()
            scenes[key] = self._describe(operators)
        return scenes[key]

    def _describe(self, operators: Sequence[str]) -> str:
        """What `look` would say, and `examine` of each receptacle here; nothing is done, so nothing is checked off."""
        sentences = [self._say("#look.feedback#", "", [])]  # without a place: else it sees nothing mid-room
        for name in operators:
            action, *things = name.split()
            if action == "examinereceptacle":
                sentences.append(self._say("#examineReceptacle.feedback#", action, things))
        return " ".join(sentences)

    def _command(self, action: str, *things: str) -> str:
        """The words for an operator. They depend on nothing that changes, so each is derived once a game."""
        template = self.translated.logic.actions[action].template
        placeholders = [parameter.name.strip("?") for parameter in self.translated.parameters[action]]
        used = [thing for name, thing in zip(placeholders, things, strict=False) if re.search(rf"\b{name}\b", template)]
        key = (action, *used)
        if key not in self.translated.commands:
            self.translated.commands[key] = self._say(template, action, things)
        return self.translated.commands[key]

    def _say(self, rule: str, action: str, things: Sequence[str]) -> str:
        """Derive a text from the grammar, with an action's placeholders standing for `things`."""
        logic = load("textworld.logic")
        mapping = {
            logic.Placeholder(parameter.name.strip("?"), parameter.type_name): logic.Variable(
                thing, parameter.type_name
            )
            for parameter, thing in zip(self.translated.parameters.get(action, ()), things, strict=False)
        }
        infos = self.translated.infos
        context = {
            "state": self._state,
            "facts": [],
            "variables": _Shared({placeholder.name: infos[thing.name] for placeholder, thing in mapping.items()}),
            "mapping": _Shared(mapping),
            "entity_infos": infos,
        }
        text: str = self.translated.logic.grammar.derive(rule, context)
        return text

    def _change(self, proposition: Any) -> None:
        """Note an effect: a fact that holds from now on, or, as `not_…`, one that no longer does."""
        opposite = proposition.negate()
        self._state.remove_fact(opposite)
        self._state.add_fact(proposition)
        for facts in (self._facts, self._denied):
            facts.discard(self._fact(opposite))
        fact = self._fact(proposition)
        if proposition.name.startswith("not_"):
            self._denied.add(fact)
        elif _is_told(fact):
            self._facts.add(fact)

    def _proposition(self, atom: Any) -> Any:
        """A library atom, `Atom inreceptacle(a, b)` or `NegatedAtom …`, as a proposition."""
        return atom.get_fact(self.translated.types)

    def _fact(self, proposition: Any) -> Fact:
        names = self.translated.names
        return (proposition.name, *(names[thing.name] for thing in proposition.arguments))


class _Shared(dict[Any, Any]):
    """A mapping whose values TextWorld need not copy when it copies a context: it never writes into them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return _Shared(self)


def _is_told(fact: Fact) -> bool:
    return not fact[0].startswith(("not_", "new-axiom")) and fact[0] not in _RULES


def _atom_type() -> Any:
    return load("textworld.envs.pddl.logic").Atom


def _operator_type() -> Any:
    return load("fast_downward").Operator
