"""Settings of `rl4vlm alfworld-games`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rl4vlm.config.fields import Count, Natural, settings


@settings
class GamesSettings:
    """Which ALFWorld games are generated. The six task types are equally frequent."""

    train: Natural = 60
    """Games to train on."""
    seen: Natural = 30
    """Evaluation games in rooms that also occur in training."""
    unseen: Natural = 30
    """Evaluation games in rooms that do not occur in training."""
    seed: Natural = 1
    """Seed of the games."""
    rooms: Annotated[Count, Field(le=24)] = 3
    """Rooms of each kind for `train` and `seen`: the first ones of ALFRED's training scenes."""
    unseen_rooms: Annotated[Count, Field(le=6)] = 2
    """Rooms of each kind for `unseen`: the first ones of ALFRED's held-out scenes."""
    # With fewer, some task types have no game.
    receptacles: Annotated[Count, Field(ge=4)] = 8
    """Largest number of receptacles per room. All games of a room have the same receptacles."""
    distractors: Natural = 5
    """Number of objects per game that have nothing to do with the task."""
    longest: Count = 30
    """Largest number of commands in a walkthrough."""
