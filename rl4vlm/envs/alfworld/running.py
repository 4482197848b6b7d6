"""One run of a game: its facts, its admissible commands and the engine's texts.

TextWorld's `PddlEnv` parses its grammar again for each sentence. Here texts are cached, so that a step takes
milliseconds. `tests/envs/alfworld/test_engine.py` compares every sentence and command with the unchanged `PddlEnv`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

from rl4vlm.envs.alfworld.games import TRAJECTORY, BadGame
from rl4vlm.envs.alfworld.goals import fraction_met
from rl4vlm.envs.alfworld.library import load, to_sas
from rl4vlm.envs.alfworld.translation import TranslatedGame
from rl4vlm.envs.alfworld.types import Fact, Goal, Situation

ILLEGAL = "Nothing happens."
"""The engine's answer to a command that is not admissible. The command counts as a step."""

SCENES_CACHED = 1000
"""Number of descriptions cached per game, each at most a few kilobytes."""

_STATIC = ("cancontain", "objecttype", "receptacletype")
"""Static predicates, left out of `Situation.facts`: names of objects and admissible commands imply them."""


class RunningGame:
    """One run of a game. TextWorld's state answers the grammar, Fast Downward's state knows the admissible commands."""

    def __init__(self, downward: Any, translated: TranslatedGame) -> None:
        self.translated = translated
        self.commands: list[str] = []
        self._downward = downward
        logic = load("textworld.logic")
        self._state = logic.State(logic.GameLogic())
        # TextWorld has two classes named GameLogic, and `State` accepts only the other one: set this one afterwards.
        self._state._logic = translated.logic
        self._state.add_facts(translated.initial)
        downward.load_sas(zlib.decompress(translated.sas))
        atoms = (_atom_type() * downward.get_state_size())()
        downward.get_state(atoms)
        self._state.add_facts(fact for fact in map(self._proposition, atoms) if not fact.name.startswith("not_"))
        self._facts = {fact for fact in map(self._fact, self._state.facts) if _is_listed(fact)}
        # `not_…` facts that an action made true. The grammar may ask for them, so descriptions depend on them.
        self._negated: set[Fact] = set()
        self._update()

    def act(self, command: str) -> str:
        """Give a command. Returns the engine's answer."""
        self.commands.append(command)
        operator = self._admissible.get(command)
        if operator is None:
            return ILLEGAL
        effects = (_atom_type() * operator.nb_effect_atoms)()
        self._downward.apply_operator(operator.id, effects)
        for proposition in map(self._proposition, effects):
            self._change(proposition)
        self._update()
        action, *things = operator.name.split()
        return self._say(self.translated.logic.actions[action].feedback_rule, action, things)

    def situation(self, feedback: str) -> Situation:
        """The current situation, with the engine's last words.

        Raises:
            BadGame: the engine and the goal in `traj_data.json` disagree on whether the game is won.
        """
        game, facts = self.translated.game, tuple(sorted(self._facts))
        location = next(fact[2] for fact in facts if fact[0] == "atlocation")
        share = fraction_met(game.goal, facts)
        if self.won != (share == 1):
            raise BadGame(  # otherwise rewards would be wrong
                f"{game.file}: {TRAJECTORY} does not fit the game: the fraction of the conditions of its goal "
                f"({_in_words(game.goal)}) that hold is {share:g}, but the game is {'' if self.won else 'not '}won"
            )
        walkthrough, given = game.walkthrough or (), len(self.commands)
        # The walkthrough helps only as long as every command so far was taken from it.
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
            conditions_met=share,
            goal=game.goal,
            game_file=str(game.file),
            source=game.source,
            next_command=walkthrough[given] if on_walkthrough else None,
        )

    def welcome(self) -> str:
        """The engine's welcome: the room and the task."""
        return self.translated.game.with_goal(self._say("#intro#", "", []))

    def plan(self) -> tuple[str, ...] | None:
        """Commands that lead from here to the goal, found by the library's planner. None if there are none."""
        game, downward = self.translated.game, self._downward
        _, sas = to_sas(game.domain, game.problem, optimize=True)
        downward.load_sas_replan(sas)
        if not downward.replan(False):
            return None
        operators = (_operator_type() * downward.get_last_plan_length())()
        downward.get_last_plan(operators)
        return tuple(self._command(*operator.name.split()) for operator in operators)

    def _update(self) -> None:
        """Update `won`, the admissible commands and the description of the place."""
        self.won = bool(self._downward.check_goal())
        operators = (_operator_type() * self._downward.get_applicable_operators_count())()
        self._downward.get_applicable_operators(operators)
        by_name = {operator.name: operator for operator in operators}
        # Several operators may share one command. They have the same effect; take the first by name, so that the
        # choice does not depend on the library's order.
        self._admissible: dict[str, Any] = {}
        for name in sorted(by_name):
            self._admissible.setdefault(self._command(*name.split()), by_name[name])
        self._scene = self._cached_description(sorted(by_name))

    def _cached_description(self, operators: Sequence[str]) -> str:
        """The description of the place, derived again only if the facts here differ from every earlier visit."""
        location = next(fact[2] for fact in self._facts if fact[0] == "atlocation")
        here = {fact[1] for fact in self._facts if fact[0] == "receptacleatlocation" and fact[2] == location}
        here.add(location)
        # Each `examine` adds a `checked` fact, on which no description depends.
        known = (fact for facts in (self._facts, self._negated) for fact in facts if fact[0] != "checked")
        key = tuple(sorted(fact for fact in known if not here.isdisjoint(fact)))
        scenes = self.translated.scenes
        if key not in scenes:
            if len(scenes) >= SCENES_CACHED:
                scenes.clear()
            scenes[key] = self._describe(operators)
        return scenes[key]

    def _describe(self, operators: Sequence[str]) -> str:
        """The texts of `look` and of `examine` for each receptacle here, without taking a step or changing a fact."""
        # No place is given as an argument: with one, the text for the middle of the room would be empty.
        sentences = [self._say("#look.feedback#", "", [])]
        for name in operators:
            action, *things = name.split()
            if action == "examinereceptacle":
                sentences.append(self._say("#examineReceptacle.feedback#", action, things))
        return " ".join(sentences)

    def _command(self, action: str, *things: str) -> str:
        """The command of an operator. It does not depend on the state, so it is derived once per game."""
        template = self.translated.logic.actions[action].template
        placeholders = [parameter.name.strip("?") for parameter in self.translated.parameters[action]]
        # Use only the arguments that the template mentions: many operators differ just in the place they start from.
        used = [thing for name, thing in zip(placeholders, things, strict=False) if re.search(rf"\b{name}\b", template)]
        key = (action, *used)
        if key not in self.translated.commands:
            self.translated.commands[key] = self._say(template, action, things)
        return self.translated.commands[key]

    def _say(self, rule: str, action: str, things: Sequence[str]) -> str:
        """Derive a text from the grammar, with `things` in place of an action's placeholders."""
        logic = load("textworld.logic")
        mapping = {
            logic.Placeholder(parameter.name.strip("?"), parameter.type_name): logic.Variable(
                thing, parameter.type_name
            )
            for parameter, thing in zip(self.translated.parameters.get(action, ()), things, strict=False)
        }
        infos = self.translated.infos
        # The entries that TextWorld's grammar reads, as its own `PddlEnv` fills them in.
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
        """Apply an effect: a fact that holds from now on or, as `not_…`, no longer holds."""
        opposite = proposition.negate()
        # The state holds a fact or its negation, never both.
        self._state.remove_fact(opposite)
        self._state.add_fact(proposition)
        for facts in (self._facts, self._negated):
            facts.discard(self._fact(opposite))
        fact = self._fact(proposition)
        if proposition.name.startswith("not_"):
            self._negated.add(fact)
        elif _is_listed(fact):
            self._facts.add(fact)

    def _proposition(self, atom: Any) -> Any:
        """Convert a library atom, `Atom inreceptacle(a, b)` or `NegatedAtom …`, to a proposition."""
        return atom.get_fact(self.translated.types)

    def _fact(self, proposition: Any) -> Fact:
        names = self.translated.names
        return (proposition.name, *(names[thing.name] for thing in proposition.arguments))


def _in_words(goal: Goal) -> str:
    return " ".join(word for word in (goal.task_type, goal.object_class, goal.receptacle, goal.lamp) if word)


class _Shared(dict[Any, Any]):
    """A mapping that is copied shallowly. TextWorld deep-copies contexts, but never writes to their values."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return _Shared(self)


def _is_listed(fact: Fact) -> bool:
    return not fact[0].startswith(("not_", "new-axiom")) and fact[0] not in _STATIC


def _atom_type() -> Any:
    return load("textworld.envs.pddl.logic").Atom


def _operator_type() -> Any:
    return load("fast_downward").Operator
