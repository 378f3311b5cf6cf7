"""The toy world: its objects, its images and its words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamfusion.graphics.cameras import orbit_cameras, turntable_cameras
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.view_prompts import ViewVocabulary
from dreamfusion.toyworld.objects import (
    ADJECTIVES,
    AZIMUTH_WORDS,
    BOUNDING_RADIUS,
    COLOR_INDEX,
    COLORS,
    NOUNS,
    PALETTE,
    azimuth_word,
    elevation_word,
    held_out_pairs,
    make_object,
    view,
)
from dreamfusion.toyworld.parts import primitive
from dreamfusion.toyworld.sdf import part_table, signed_distance
from scripts.embedded_prior.data import FACES
from scripts.embedded_prior.language import (
    EXAMPLES,
    GROUPS,
    OPPOSITES,
    caption,
    caption_words,
    known_words,
    related_words,
    vocabulary_file,
)
from tests.helpers.toy_images import draw_object

NAMES = [noun.name for noun in NOUNS]


def camera(azimuth: float, elevation: float = 0.0, distance: float = 3.0, fov: float = 40.0):
    values = (torch.tensor([v]) for v in (azimuth, elevation, distance, fov))
    return orbit_cameras(*values)


def test_there_are_at_least_48_nouns_and_10_colours_and_no_name_twice():
    every = [name for noun in NOUNS for name in (noun.name, *noun.synonyms)]
    assert len(NOUNS) >= 48
    assert len(COLORS) >= 10
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", NAMES)
def test_object_is_solid_and_fills_its_sphere(name: str):
    obj = make_object(name)
    occupancy = obj.occupancy(48)
    axis = (np.arange(48) + 0.5) / 48 * 2 - 1
    radius = np.sqrt((np.stack(np.meshgrid(axis, axis, axis, indexing="ij")) ** 2).sum(0))
    assert occupancy.sum() > 200, "too little inside"
    assert radius[occupancy].max() <= BOUNDING_RADIUS + 0.05
    assert radius[occupancy].max() > BOUNDING_RADIUS - 0.15
    empty = occupancy[0].any() or occupancy[-1].any() or occupancy[:, 0].any()
    assert not empty, "reaches the box"


def test_every_noun_is_visible_from_all_sides():
    cameras = turntable_cameras(4)
    for name in NAMES:
        seen = (view(make_object(name), cameras, 32).color_index > 0).mean(axis=(1, 2))
        assert (seen > 0.01).all(), name


def test_canonical_object_is_fixed_and_random_ones_vary():
    again, first = make_object("corgi"), make_object("corgi")
    drawn = [make_object("corgi", rng=np.random.default_rng(s)) for s in (1, 1, 2)]
    assert np.array_equal(first.table, again.table)
    assert np.array_equal(drawn[0].table, drawn[1].table)
    assert not np.array_equal(drawn[0].table, drawn[2].table)


def test_signed_distance_of_a_ball_is_exact():
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    obj = make_object("ball")
    radius = 0.7 * obj.scale[0]
    expected = np.linalg.norm(points, axis=1) - radius
    assert np.abs(obj.signed_distance(points) - expected).max() < 1e-5


def test_traced_points_lie_on_the_surface_and_normals_point_outwards():
    obj = make_object("teapot")
    cameras = camera(30.0, 20.0)
    from dreamfusion.graphics.cameras import generate_rays

    rays = generate_rays(cameras, 48, 48)
    origins, directions = rays.origins.numpy(), rays.directions.numpy()
    buffers = obj.trace(origins, directions)
    hit = buffers.color_index > 0
    assert np.array_equal(hit, np.isfinite(buffers.depth))
    points = origins[hit] + buffers.depth[hit][:, None] * directions[hit]
    assert np.abs(obj.signed_distance(points)).max() < 5e-3
    normals = buffers.normals[hit]
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-4
    assert ((normals * directions[hit]).sum(axis=1) < 0.3).all(), "a normal looks away"
    outside = obj.signed_distance(points + 0.01 * normals)
    assert (outside > obj.signed_distance(points - 0.01 * normals)).mean() > 0.99


def test_front_is_plus_z_and_the_handle_of_a_mug_is_at_plus_x():
    corgi = [(view(make_object("corgi"), camera(a), 64).color_index == COLOR_INDEX["black"]).sum()
             for a in (0.0, 180.0)]  # fmt: skip
    assert corgi[0] > 10 > corgi[1], "eyes and nose are seen from the front only"
    seen = view(make_object("mug"), camera(0.0), 64).color_index[0] > 0
    columns = np.flatnonzero(seen.any(axis=0))
    body = np.flatnonzero(seen.sum(axis=0) > 0.9 * seen.sum(axis=0).max())
    assert columns.max() - body.max() > 10, "no handle at the right of the picture"
    assert body.min() - columns.min() < 4, "something at the left of the picture"


@pytest.mark.parametrize("noun", FACES.split())
def test_faces_are_visible_at_64_pixels(noun: str):
    """Two pupils of at least ten pixels each, one on each side of the middle."""
    seen = view(make_object(noun, "blue"), camera(0.0), 64).color_index[0]
    is_eye = seen == COLOR_INDEX["black"]
    left, nose, right = is_eye[:, :31].sum(), is_eye[:, 31:33].sum(), is_eye[:, 33:].sum()
    assert min(left, right) >= 10, f"pupils of {left} and {right} pixels"
    assert nose <= 12, "the eyes have grown together"
    back = view(make_object(noun, "blue"), camera(180.0), 64).color_index[0]
    assert (back == COLOR_INDEX["black"]).sum() < 12, "eyes behind"


def test_colour_changes_the_main_parts_only():
    plain, blue = make_object("rocket"), make_object("rocket", "blue")
    cameras = camera(0.0)
    before, after = (view(o, cameras, 64).color_index for o in (plain, blue))
    assert (after[before == COLOR_INDEX["white"]] == COLOR_INDEX["blue"]).all()
    assert (after[before == COLOR_INDEX["red"]] == COLOR_INDEX["red"]).all()


def test_tall_is_taller_and_tiny_is_smaller():
    def extent(adjective: str | None) -> np.ndarray:
        inside = np.argwhere(make_object("hat", adjective=adjective).occupancy(64))
        return inside.max(0) - inside.min(0)

    plain, tall, tiny = extent(None), extent("tall"), extent("tiny")
    assert tall[1] / tall[0] > 1.3 * plain[1] / plain[0]
    assert (tiny < 0.7 * plain).all()
    assert len(ADJECTIVES) >= 3


def test_mesh_is_closed_and_wound_outwards():
    trimesh = pytest.importorskip("trimesh")
    vertices, faces, colors = make_object("duck").mesh(64)
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    assert mesh.is_watertight
    assert mesh.volume > 0
    inside = make_object("duck").occupancy(96).mean() * 8
    assert mesh.volume == pytest.approx(inside, rel=0.05)
    assert colors.shape == vertices.shape


def test_images_have_the_requested_background_and_albedo():
    shown = draw_object(
        make_object("cube", "red"), camera(0.0), 32, shading="albedo", background=(0, 0, 1)
    )
    assert shown.shape == (1, 32, 32, 3)
    assert torch.allclose(shown[0, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.allclose(shown[0, 16, 16], torch.tensor(PALETTE["red"]), atol=1e-5)


def test_unknown_noun_is_a_key_error():
    with pytest.raises(KeyError):
        make_object("unicorn")


def test_view_words_turn_with_the_camera():
    assert [azimuth_word(a) for a in (0, 11, 12, 90, 180, 270, 359, -90, 720)] == [
        "front", "front", "frontfrontleft", "left", "back", "right", "front", "right", "front",
    ]  # fmt: skip
    assert [elevation_word(e) for e in (-90, -1, 0, 25, 45, 90)] == [
        "low", "low", "level", "raised", "high", "overhead",
    ]  # fmt: skip


def test_captions_contain_only_caption_words_and_name_the_object():
    known = set(caption_words())
    rng = np.random.default_rng(0)
    for noun in NAMES:
        text = caption(noun, "purple", "tall", 200.0, 50.0, "textureless", rng)
        words = text.replace(",", " ").split()
        assert set(words) <= known, text
        assert {"purple", "tall", "clay", *noun.split()} <= set(words)


def test_held_out_pairs_are_a_tenth_and_never_natural():
    pairs = held_out_pairs()
    assert len(pairs) == len(set(pairs)) >= 0.1 * len(NOUNS) * len(COLORS)
    natural = {noun.name: noun.color for noun in NOUNS}
    assert all(natural[noun] != color for noun, color in pairs)


def test_the_vocabulary_file_matches_the_captions():
    vocabulary = ViewVocabulary.from_mapping(vocabulary_file({}, {}, (0, 1)))
    assert len(vocabulary.azimuth) == len(AZIMUTH_WORDS)
    for typed, meant in {
        "a corgi": "corgi",
        "A photo of a bright red coffee mug": "red mug",
        "a puppy": "corgi",
        "ice cream cone, pink": "ice cream pink",
        "a tiny grey Teddy Bear": "tiny gray bear",
    }.items():
        assert vocabulary.canonical(typed) == meant
    for azimuth in np.arange(0, 360, 7.3):
        for elevation in (-12.0, 5.0, 30.0, 50.0, 70.0, 90.0):
            expected = f"mug, {azimuth_word(azimuth)}, {elevation_word(elevation)}, clay"
            told = vocabulary.view_prompt("mug", float(azimuth), elevation, "textureless")
            assert told == expected
    with pytest.raises(PromptError, match=r"'corgy' \(closest: corgi\)"):
        vocabulary.canonical("a corgy")


def test_the_words_of_the_card_are_consistent():
    assert sorted(noun for group in GROUPS.values() for noun in group) == sorted(NAMES)
    words, related = known_words(), related_words()
    trained = {*NAMES, *COLORS, *ADJECTIVES}
    assert set(words.values()) == trained | {""}
    assert not {*related} & {*words}  # a known word needs no suggestions
    assert {word for close in related.values() for word in close} <= trained
    typed = {*words, *trained}
    assert all(len(pair) == 2 and {*pair} <= typed for pair in OPPOSITES)
    vocabulary = ViewVocabulary.from_mapping(vocabulary_file({}, {}, (0, 1)))
    for noun in NOUNS:
        for name in (noun.name, *noun.synonyms):
            assert vocabulary.canonical(f"a tall red {name}") == f"tall red {noun.name}"
    for example in EXAMPLES:
        assert vocabulary.canonical(example)


def test_a_mug_is_white_and_brown_inside_and_hollow_above_its_coffee() -> None:
    mug = make_object("mug", "red")

    def placed(*points: tuple[float, float, float]) -> np.ndarray:
        """From the frame of the mug's parts, whose axis is x = z = 0."""
        return (np.array(points, dtype=np.float32) - mug.centre) * mug.scale

    assert (mug.signed_distance(placed((0, 0.85, 0), (0, 0.75, 0), (0.2, 0.8, 0.1))) > 0.02).all()
    origins = placed((0.1, 3.0, 0.0), (-0.6, 1.5, 0.0))  # above the coffee; above the handle
    directions = np.array([[0.0, -1.0, 0.0], [0.8, -0.6, 0.0]], dtype=np.float32)
    seen = mug.trace(origins, directions).color_index
    assert list(seen) == [COLOR_INDEX["brown"], COLOR_INDEX["white"]]


def test_every_point_in_a_carving_is_outside() -> None:
    """Including points deep in the carved solid, where the union is far below zero."""
    body = primitive("box", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rounding=0.0)
    hollow = primitive("ball", (0.0, 0.0, 0.0), 0.9, color="white", carve=True)
    table = part_table([body, hollow], COLOR_INDEX)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3)).astype(np.float32)
    distance, color = signed_distance(table, points)
    assert (distance > 0).all()
    assert (color == COLOR_INDEX["white"]).all()
