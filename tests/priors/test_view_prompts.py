import pytest

from dreamfusion.priors.view_prompts import (
    PAPER_VIEWS,
    AzimuthView,
    ViewVocabulary,
)

EIGHT = ["front", "front left", "left", "back left", "back", "back right", "right", "front right"]
TOY = ViewVocabulary.from_mapping(
    {
        "words": {
            "a": "", "of": "", "photo": "", "red": "red", "crimson": "red", "corgi": "corgi",
            "puppy": "corgi", "mug": "mug", "ice cream": "icecream", "ice": "", "cone": "cone",
            "dog": "corgi", "duck": "duck",
        },
        "views": {
            "azimuth": [
                {"center_deg": 45 * i, "text": f"{name} view"} for i, name in enumerate(EIGHT)
            ],
            "elevation": [
                {"min_deg": -90, "max_deg": 0, "text": "from below"},
                {"min_deg": 0, "max_deg": 30, "text": ""},
                {"min_deg": 30, "max_deg": 90, "text": "from above"},
            ],
        },
        "shading": {"albedo": "flat", "lambertian": "", "textureless": "clay"},
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("azimuth", "elevation", "text"),
    [
        (0, 0, "front view"),
        (44.9, 0, "front view"),
        (-44.9, 0, "front view"),
        (359, 59.9, "front view"),
        (45.1, 0, "side view"),
        (90, 0, "side view"),
        (-90, 0, "side view"),
        (134.9, 0, "side view"),
        (135.1, 0, "back view"),
        (180, 0, "back view"),
        (224.9, 0, "back view"),
        (270, 0, "side view"),
        (0, 60.1, "overhead view"),
        (180, 90, "overhead view"),
    ],
)
def test_the_papers_four_views(azimuth, elevation, text):
    assert PAPER_VIEWS.view_prompt("a corgi", azimuth, elevation) == f"a corgi, {text}"


def test_views_and_shadings_of_a_card():
    def ask(azimuth, elevation, shading):
        return TOY.view_prompt("corgi", azimuth, elevation, shading)

    assert ask(22, -5, "albedo") == "corgi, front view, from below, flat"
    assert ask(23, 5, "lambertian") == "corgi, front left view"
    assert ask(400, 90, "textureless") == "corgi, front left view, from above, clay"


def test_a_prior_without_a_word_list_accepts_any_text():
    assert PAPER_VIEWS.canonical(" any  words, красный  ") == "any words, красный"
    assert TOY.canonical("A photo of a crimson Puppy!") == "red corgi"


@pytest.mark.parametrize("azimuth", [-720.0, -10.0, 0.0, 30.0, 90.0, 135.0, 269.9, 359.999, 1000.0])
@pytest.mark.parametrize("vocabulary", [PAPER_VIEWS, TOY], ids=["paper", "own"])
def test_blended_prompts_interpolate_between_neighbouring_views(vocabulary, azimuth):
    mixed = dict(vocabulary.blended_prompts("a cat", azimuth, 10.0))
    assert sum(mixed.values()) == pytest.approx(1.0)
    nearest = vocabulary.view_prompt("a cat", azimuth, 10.0)
    assert max(mixed.values()) == pytest.approx(mixed[nearest])


def test_blended_prompts_are_exact_at_and_between_views():
    assert PAPER_VIEWS.blended_prompts("a cat", 90.0, 0.0) == [("a cat, side view", 1.0)]
    assert PAPER_VIEWS.blended_prompts("a cat", -60.0, 0.0) == [
        ("a cat, side view", pytest.approx(2 / 3)),
        ("a cat, front view", pytest.approx(1 / 3)),
    ]
    assert PAPER_VIEWS.blended_prompts("a cat", 20.0, 70.0) == [("a cat, overhead view", 1.0)]


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [(0, None, 1.574), (45, None, 0.689), (90, 1.574, None), (135, 1.746, None),
     (180, 1.967, 0.394), (230, 1.724, None), (270, 1.574, None), (315, None, 0.689)],
)  # fmt: skip
def test_weights_of_negative_view_prompts_equal_threestudios(azimuth, front, side):
    """a exp(-b r) + c with their (4, .5, -2.426), (1, .5, .967) and (1, .5, -.606)."""
    expected = {"a cat, front view": front, "a cat, side view": side}
    found = dict(PAPER_VIEWS.negative_prompts("a cat", azimuth, 0.0))
    assert found == {k: pytest.approx(v, abs=2e-3) for k, v in expected.items() if v is not None}
    assert PAPER_VIEWS.negative_prompts("a cat", azimuth, 80.0) == []


def test_a_side_with_separate_words_is_opposed_from_the_other_side():
    views = (AzimuthView(0, "front"), AzimuthView(90, "left"), AzimuthView(180, "back"),
             AzimuthView(270, "right"))  # fmt: skip
    vocabulary = ViewVocabulary(azimuth=views, elevation=())
    found = dict(vocabulary.negative_prompts("a cat", 90.0, 0.0))
    assert found == {
        "a cat, front": pytest.approx(1.574, abs=2e-3),
        "a cat, right": pytest.approx(1.967, abs=2e-3),
    }


@pytest.mark.parametrize("vocabulary", [PAPER_VIEWS, TOY], ids=["paper", "own"])
def test_all_prompts_contains_the_prompts_of_all_views(vocabulary):
    known = set(vocabulary.all_prompts("a cat"))
    for shading in ("albedo", "lambertian", "textureless"):
        for elevation in range(-90, 91, 5):
            for azimuth in range(0, 360, 15):
                place = ("a cat", azimuth, elevation, shading)
                asked = {vocabulary.view_prompt(*place)}
                asked |= {text for text, _ in vocabulary.blended_prompts(*place)}
                asked |= {text for text, _ in vocabulary.negative_prompts(*place)}
                assert asked <= known
