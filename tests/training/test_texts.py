"""The table of texts gives what the prior itself would."""

import pytest
import torch

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.view_prompts import blended_prompts, view_prompt
from dreamfusion.training.texts import ViewTexts, texts_of

PLACES = [(0.0, 10.0), (100.0, -10.0), (200.0, 70.0), (359.0, 89.0)]
AZIMUTH, ELEVATION = zip(*PLACES, strict=True)


def table(prior, **options):
    return ViewTexts(prior, prior.card.vocabulary, "red corgi", PriorConfig(**options))


@pytest.mark.parametrize("shading", ["albedo", "lambertian", "textureless"])
def test_each_view_has_its_prompt(prior, shading):
    found, negatives = table(prior).of_views(AZIMUTH, ELEVATION, shading)
    words = prior.card.vocabulary
    expected = [view_prompt(words, "red corgi", *place, shading) for place in PLACES]
    assert torch.equal(found.tokens, prior.encode_text(expected).tokens)
    assert negatives == []


def test_blended_prompts_are_mixed_by_nearness(prior):
    found, _ = table(prior, view_prompts="blended").of_views([60.0], [10.0], "albedo")
    mixed = blended_prompts(prior.card.vocabulary, "red corgi", 60.0, 10.0, "albedo")
    assert len(mixed) == 2
    expected = sum(weight * prior.encode_text([text]).tokens for text, weight in mixed)
    torch.testing.assert_close(found.tokens, expected)


def test_perp_neg_weighs_the_other_sides(prior):
    texts = table(prior, perp_neg=2.0)
    _, negatives = texts.of_views(AZIMUTH, ELEVATION, "albedo")
    assert negatives and all(len(one.text) == len(PLACES) for one in negatives)
    assert max(float(one.weight.max()) for one in negatives) > 1.0


def test_without_view_prompts_all_views_have_one_text(prior):
    texts = table(prior, view_prompts="none", negative_prompt="mug", perp_neg=1.0)
    found, negatives = texts.of_views(AZIMUTH, ELEVATION, "albedo")
    assert negatives == [] and (found.tokens == found.tokens[:1]).all()
    assert torch.equal(texts.unconditional.tokens, prior.encode_text(["mug"]).tokens)


def test_the_table_needs_no_text_encoder_once_it_is_made(prior, folder):
    from dreamfusion.priors import load_prior

    options = PriorConfig(view_prompts="blended", perp_neg=1.0, negative_prompt="mug")
    fresh = load_prior(str(folder))
    fresh.prepare(texts_of(fresh.card.vocabulary, "red corgi", options))
    ViewTexts(fresh, fresh.card.vocabulary, "red corgi", options).of_views(
        AZIMUTH, ELEVATION, "lambertian"
    )
