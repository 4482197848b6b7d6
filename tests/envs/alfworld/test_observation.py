"""What is seen, and the map of a room."""

import pytest

from rl4vlm.envs.alfworld.observation import Receptacle, Spot, Thing, natural_order, read_room, seen
from tests.envs.alfworld.situations import ROOM, situation

PROBLEM = """
(define (problem plan) (:domain alfred)
(:objects Apple - object Cabinet_bar__plus_09_dot_00_bar__plus_09_dot_00_bar__plus_09_dot_00 - receptacle)
(:init
  (receptacleType Cabinet_bar__minus_02_dot_65_bar__plus_02_dot_20_bar__plus_00_dot_43 CabinetType)
  (receptacleType Cabinet_bar__plus_01_dot_13_bar__plus_00_dot_47_bar__minus_00_dot_90 CabinetType)
  (receptacleType Sink_bar__minus_01_dot_33_bar__plus_00_dot_92_bar__minus_01_dot_23_bar_SinkBasin SinkBasinType)
  (objectType Sink_bar__minus_01_dot_33_bar__plus_00_dot_92_bar__minus_01_dot_23 SinkType)
  (receptacleAtLocation Sink_bar__minus_01_dot_33_bar__plus_00_dot_92_bar__minus_01_dot_23_bar_SinkBasin
    loc_bar_2_bar__minus_3_bar_1_bar_30)
  (atLocation agent1 loc_bar__minus_5_bar_4_bar_2_bar__minus_30)
)
(:goal (and)))
"""


def test_only_open_receptacles_at_hand_are_looked_into():
    inside = {"cabinet 1": ["mug 1"], "cabinet 2": ["mug 2", "apple 1"], "desk 1": ["mug 3"]}
    view = seen(situation(inside, at="cabinet 1", opened=["cabinet 2"]), ROOM)
    assert view.receptacles == (
        Receptacle("cabinet 1", False, ()),
        Receptacle("cabinet 2", True, (Thing("apple 1"), Thing("mug 2"))),
    )
    assert seen(situation(inside, at="desk 1"), ROOM).receptacles == (Receptacle("desk 1", None, (Thing("mug 3"),)),)
    assert seen(situation(inside), ROOM).receptacles == ()


def test_states_are_seen_on_what_is_in_view_and_in_hand():
    states = [("ishot", "mug 1"), ("isclean", "mug 1"), ("iscool", "apple 1"), ("istoggled", "desklamp 1")]
    states += [("issliced", "apple 1"), ("isclean", "plate 1")]
    inside = {"desk 1": ["apple 1", "desklamp 1"], "cabinet 1": ["plate 1"]}
    view = seen(situation(inside, at="desk 1", held="mug 1", states=states), ROOM)
    assert view.held == Thing("mug 1", ("hot", "clean"))
    assert view.receptacles[0].things == (Thing("apple 1", ("cold", "sliced")), Thing("desklamp 1", ("on",)))


def test_numbers_are_ordered_as_numbers():
    names = ["shelf 10", "shelf 2", "desk 1", "agent1"]
    assert sorted(names, key=natural_order) == ["agent1", "desk 1", "shelf 2", "shelf 10"]


def test_the_map_is_read_from_the_ids_with_alfworlds_own_numbers():
    room = read_room(PROBLEM)
    assert {name: (x, z) for name, x, z in room.receptacles} == {
        "cabinet 2": (-2.65, 0.43),
        "cabinet 1": (1.13, -0.9),
        "sinkbasin 1": (-1.33, -1.23),
    }
    assert dict(room.spots) == {"loc 2": Spot(0.5, -0.75, 1), "loc 1": Spot(-1.25, 1.0, 2)}


def test_a_problem_without_a_start_is_refused():
    with pytest.raises(ValueError, match="not found"):
        read_room("(define (problem plan))")
