"""Which games results are of, in words."""

import pytest

from rl4vlm.results.game_label import games_played


@pytest.mark.parametrize(
    ("sources", "games", "said"),
    [
        ([], None, None),
        ([], "upstream", "upstream"),
        (["generated"], None, "generated games"),
        (["generated", "generated"], "seen", "generated games, seen"),
        (["official, drawn pictures"], "unseen", "official games, drawn pictures, unseen"),
        (["official", "generated"], None, "generated games and official games"),
    ],
)
def test_games_played(sources, games, said):
    assert games_played(sources, games) == said
