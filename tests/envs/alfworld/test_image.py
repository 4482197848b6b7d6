import itertools

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4vlm.envs.alfworld.glyphs import DRAWINGS, glyph
from rl4vlm.envs.alfworld.image import HAND, MAP, MARK_LETTERS, VIEW, draw_seen
from rl4vlm.envs.alfworld.observation import Room, Seen, Spot, Thing, seen
from rl4vlm.envs.alfworld.types import Goal, TaskType
from tests.envs.alfworld.situations import OPENABLE, PLACES, ROOM, situation

THINGS = ("mug 1", "mug 2", "apple 1", "knife 1", "plate 1")
STATES = ("ishot", "iscool", "isclean", "istoggled", "issliced")


def part(image, box):
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def shown(*arguments, **options):
    return draw_seen(seen(situation(*arguments, **options), ROOM))


def test_shape_and_ownership():
    first = shown({"desk 1": ["mug 1"]}, at="desk 1")
    assert first.shape == (300, 300, 3)
    assert first.dtype == np.uint8
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(shown({"desk 1": ["mug 1"]}, at="desk 1"), kept)


def test_many_rooms_take_little_memory():
    before = psutil.Process().memory_info().rss
    for number in range(300):
        room = Room(ROOM.receptacles, (*ROOM.spots, (f"loc {10 + number}", Spot(0.5, 0.5, 0))))
        draw_seen(seen(situation({}, at="desk 1"), room))
    assert psutil.Process().memory_info().rss - before < 60e6


@st.composite
def worlds(draw):
    """The place of each object, the open receptacles, and the states that hold."""
    places = {thing: draw(st.sampled_from(sorted(PLACES))) for thing in THINGS}
    opened = draw(st.sets(st.sampled_from(OPENABLE)))
    states = draw(st.sets(st.tuples(st.sampled_from(STATES), st.sampled_from(THINGS))))
    return places, opened, states


def facts_of(world, at):
    """What is in view at a place by the rules, written without `seen`."""
    places, opened, states = world
    near = [name for name, place in PLACES.items() if place == PLACES[at]]
    visible = {
        thing
        for thing in THINGS
        if places[thing] in near and (places[thing] not in OPENABLE or places[thing] in opened)
    }
    return (
        frozenset((thing, places[thing]) for thing in visible),
        frozenset(opened & set(near)),
        frozenset((state, thing) for state, thing in states if thing in visible),
    )


def draw_world(world, at, goal):
    places, opened, states = world
    inside = {name: [thing for thing in THINGS if places[thing] == name] for name in PLACES}
    return shown(inside, at=at, opened=opened, states=states, goal=goal)


GOALS = (Goal(TaskType.HEAT, "mug", "countertop"), Goal(TaskType.LOOK, "plate", lamp="desklamp"))


@settings(max_examples=30, deadline=None)
@given(worlds(), worlds(), st.sampled_from(sorted(PLACES)))
def test_hidden_facts_and_the_goal_change_nothing(one, other, at):
    """Two images are equal exactly if the objects in view are, whatever is hidden and whatever the goal is."""
    same = np.array_equal(draw_world(one, at, GOALS[0]), draw_world(other, at, GOALS[1]))
    assert same == (facts_of(one, at) == facts_of(other, at))


@settings(max_examples=30, deadline=None)
@given(worlds(), st.sampled_from(sorted(PLACES)), st.randoms())
def test_shuffling_what_is_hidden_changes_nothing(world, at, random):
    places, opened, states = world
    visible = {thing for thing, _ in facts_of(world, at)[0]}
    hidden = [thing for thing in THINGS if thing not in visible]
    shuffled = random.sample(hidden, len(hidden))
    renamed = {**places, **{thing: places[other] for thing, other in zip(hidden, shuffled, strict=True)}}
    changed = {(state, thing) for state, thing in states if thing in visible} | {
        (random.choice(STATES), thing) for thing in hidden
    }
    assert np.array_equal(draw_world(world, at, GOALS[0]), draw_world((renamed, opened, changed), at, GOALS[0]))


def test_each_panel_shows_its_part():
    empty = shown({}, at="desk 1")
    thing, hand, moved = shown({"desk 1": ["mug 1"]}, at="desk 1"), shown({}, at="desk 1", held="mug 1"), shown({})
    for other, panels in ((thing, [VIEW]), (hand, [HAND]), (moved, [VIEW, MAP])):
        changed = [box for box in (VIEW, MAP, HAND) if not np.array_equal(part(empty, box), part(other, box))]
        assert changed == panels


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("where", ["view", "hand"])
def test_each_state_can_be_seen(state, where):
    options = {"held": "mug 1"} if where == "hand" else {}
    inside = {} if where == "hand" else {"desk 1": ["mug 1"]}
    plain = shown(inside, at="desk 1", **options)
    images = [shown(inside, at="desk 1", states=[(s, "mug 1")], **options) for s in STATES]
    assert not any(np.array_equal(plain, image) for image in images)
    assert len({image.tobytes() for image in images}) == len(STATES) == len(MARK_LETTERS)


def test_shut_open_and_open_but_empty_differ():
    images = [
        shown({"fridge 1": things}, at="fridge 1", opened=opened)
        for things, opened in ((["mug 1"], ()), ((), ["fridge 1"]), (["mug 1"], ["fridge 1"]))
    ]
    assert len({image.tobytes() for image in images}) == 3


def test_any_number_of_things_fits():
    """However many objects there are, no cell leaves the upper panel, and the panels below stay the same."""
    below = shown({}, at="desk 1")[VIEW[3] :]
    for count in (1, 5, 9, 17, 23, 40):
        image = shown({"desk 1": [f"apple {number}" for number in range(1, count + 1)]}, at="desk 1")
        assert np.array_equal(image[VIEW[3] :], below)
        red = (np.abs(part(image, VIEW).astype(int) - (0xD6, 0x28, 0x28)).sum(axis=-1) < 40).sum()
        assert red > 20 * count, count


def test_the_arrow_shows_where_the_agent_is_and_faces():
    room = Room(ROOM.receptacles, ROOM.spots)
    maps = {part(draw_seen(Seen((), None, room, f"loc {n}")), MAP).tobytes() for n in range(1, 9)}
    assert len(maps) == 8


def test_a_place_that_the_map_lacks_is_no_error():
    draw_seen(Seen((), Thing("mug 1"), Room((), ()), "loc 1"))


def small(class_name):
    background = np.full((28, 28, 3), 255.0)
    drawing = np.asarray(glyph(class_name, 28), dtype=float)
    alpha = drawing[..., 3:] / 255
    return background * (1 - alpha) + drawing[..., :3] * alpha


def test_all_drawings_can_be_told_apart_when_small():
    drawn = {name: small(name) for name in DRAWINGS}
    for one, other in itertools.combinations(drawn, 2):
        clearly = (np.abs(drawn[one] - drawn[other]).max(axis=-1) > 60).sum()
        assert clearly >= 60, (one, other, clearly)


def test_unknown_classes_get_cards_of_their_own():
    assert not np.array_equal(small("gramophone"), small("grandfatherclock"))
    assert (small("gramophone") < 100).any()


def test_a_lit_lamp_looks_lit():
    for lamp in ("desklamp", "floorlamp"):
        assert not np.array_equal(np.asarray(glyph(lamp, 28)), np.asarray(glyph(lamp, 28, True)))
    assert np.array_equal(np.asarray(glyph("mug", 28)), np.asarray(glyph("mug", 28, True)))
