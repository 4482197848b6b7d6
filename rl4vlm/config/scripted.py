"""The policies that play by fixed rules, one row each: what they are called, their code, and what they can play.

To add a scripted policy, write its class and add one row here. The evaluations that the workflow runs, tables, figures
and the command line follow. A row in `rl4vlm.config.methods` gives it a label, a colour and a place in tables.

The code digest of a stage covers only the rows that it looks up (`rl4vlm.config.code_digest.REGISTRIES`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScriptedPolicy:
    """One row of `SCRIPTED`.

    Attributes:
        method: name of the method in tables.
        policy: `module:object`, a class that takes the style of its replies.
        tasks: the tasks that it can play; all of them if empty.
    """

    method: str
    policy: str
    tasks: tuple[str, ...] = ()

    def plays(self, task: str) -> bool:
        return not self.tasks or task in self.tasks


SCRIPTED: dict[str, ScriptedPolicy] = {
    "random": ScriptedPolicy("random", "rl4vlm.policies.scripted:RandomPolicy"),
    "stand17": ScriptedPolicy("stand on 17", "rl4vlm.policies.stand17:StandOn17Policy", tasks=("Blackjack",)),
    "solver": ScriptedPolicy("solver", "rl4vlm.policies.scripted:SolverPolicy"),
}
"""By the name by which each is called (`rl4vlm evaluate stand17 Blackjack`)."""
