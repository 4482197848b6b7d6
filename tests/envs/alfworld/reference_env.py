"""Print what the unchanged `PddlEnv` answers on random walks, one line of JSON per game.

Run `python reference_env.py STEPS GAME_FILE...` in a process of its own: this package patches the library.
"""

import json
import random
import sys
from typing import Any

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.envs import PddlEnv


def main() -> None:
    steps = int(sys.argv[1])
    for seed, file in enumerate(sys.argv[2:]):
        print(json.dumps(walk(file, steps, random.Random(seed))), flush=True)


def walk(file: str, steps: int, rng: random.Random) -> list[dict[str, Any]]:
    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(facts=True, admissible_commands=True, won=True)))
    env.load(file)
    state = env.reset()
    played = [entry("", state)]
    for _ in range(steps):
        command = rng.choice([*state["admissible_commands"], "go to the moon"])
        state, _, done = env.step(command)
        played.append(entry(command, state))
        if done:
            break
    return played


def entry(command: str, state: textworld.GameState) -> dict[str, Any]:
    facts = [[fact.name, *(thing.name.strip() for thing in fact.arguments)] for fact in state["facts"]]
    hidden = ("not_", "new-axiom", "cancontain", "objecttype", "receptacletype")
    return {
        "command": command,
        "feedback": state.feedback,
        "admissible": state["admissible_commands"],
        "facts": sorted(fact for fact in facts if not fact[0].startswith(hidden)),
        "won": state["won"],
    }


if __name__ == "__main__":
    main()
