"""What the unchanged `PddlEnv` says on a random walk, as JSON: `python stock.py GAME_FILE STEPS SEED`.

Run in a process of its own, so that nothing that this package changes in the library can reach it.
"""

import json
import random
import sys

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.envs import PddlEnv


def main() -> None:
    file, steps, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(facts=True, admissible_commands=True, won=True)))
    env.load(file)
    state = env.reset()
    rng = random.Random(seed)
    played = [entry("", state)]
    for _ in range(steps):
        command = rng.choice([*state["admissible_commands"], "go to the moon"])
        state, _, done = env.step(command)
        played.append(entry(command, state))
        if done:
            break
    print(json.dumps(played))


def entry(command: str, state: textworld.GameState) -> dict[str, object]:
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
