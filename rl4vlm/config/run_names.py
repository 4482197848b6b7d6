"""Names of the folders of demonstrations, trainings and intermediate policies, also the wildcards of their rules.

Apart from `runs`, so that an edit of the list of runs does not make the page of results anew.
"""

from __future__ import annotations

DATA_NAME = "{task}-{style}"
SFT_NAME = "{task}-{style}{variant}-seed{seed}"
PPO_NAME = "{task}-{style}{variant}-lambda{lam}-seed{seed}"
CNN_NAME = "{task}-seed{seed}"
KEPT_NAME = "eval_kept/ppo-{run}/{kept}"
"""The folder, below that of results, with the evaluation of an intermediate policy, by its PPO run's name."""


def experiment_of(name: str) -> str:
    """The part of a training's name that all λ and training seeds share."""
    return name.partition("-lambda")[0].partition("-seed")[0]
