"""The dealer's own rule as a Blackjack player. It has a file of its own because it knows only this game."""

from __future__ import annotations

from collections.abc import Sequence

from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.interaction.prompt import write_reply
from rl4vlm.tasks.blackjack import DEALER_STANDS, total


class StandOn17Policy:
    """Hits below 17 and stands at 17 or more, soft hands included, whatever the dealer shows."""

    def __init__(self, style: Style = Style.COT) -> None:
        self.style = style

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """Raises ValueError for a game that is not Blackjack."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply:
        shown = request.env.perception()
        if "player cards" not in shown or set(request.view.actions) != {"stand", "hit"}:
            raise ValueError("policy 'stand17' plays Blackjack only")
        ranks = shown["player cards"].split(", ")
        # Only the ranks are shown, and the suit does not matter: call every card a spade.
        points = total("S" + ("T" if rank == "10" else rank) for rank in ranks).points
        action = "stand" if points >= DEALER_STANDS else "hit"
        thoughts = (
            f"The dealer shows {shown['dealer card']}. My cards are {', '.join(ranks)}: {points} in all. "
            f"That is {'not ' if action == 'stand' else ''}less than {DEALER_STANDS}."
        )
        return Reply(write_reply({"thoughts": thoughts}, action, self.style))
