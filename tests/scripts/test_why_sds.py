"""The experiments of docs/why-sds.md: their generators, measures, figures and command."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import dreamfusion as df
from dreamfusion.distillation.sds.settings import SDSSettings
from scripts import plots
from scripts.why_sds import jacobian, levels, sampling
from scripts.why_sds.__main__ import EXPERIMENTS, main
from scripts.why_sds.generators import SIZE, Curves, Discs, Pixels, bernstein, composite, distil
from scripts.why_sds.measures import Subjects
from scripts.why_sds.result import Result
from tests.helpers import PAGES, ROOT
from tests.helpers.mixtures import Mixture, text


@pytest.fixture(scope="module")
def prior():
    return df.DiffusionPrior.from_pretrained("embedded")


@pytest.mark.parametrize("kind", [Pixels, Discs, Curves])
def test_every_parameter_of_every_image_has_a_gradient(kind):
    generator = kind(2)
    images = generator()
    assert images.shape == (2, 3, SIZE, SIZE) and images.isfinite().all()
    (
        images * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    for name, parameter in generator.named_parameters():
        gradient = parameter.grad.flatten(1)
        assert gradient.isfinite().all() and (gradient != 0).any(dim=1).all(), name


@pytest.mark.parametrize("kind", [Pixels, Discs, Curves])
def test_an_image_does_not_depend_on_the_number_of_images(kind):
    assert torch.allclose(kind(1)(), kind(3)()[:1], atol=1e-6)
    assert not torch.equal(*kind(2)())


def test_a_disc_is_opaque_inside_and_absent_outside():
    discs = Discs(1, count=1, sharpness=60)
    with torch.no_grad():
        discs.position[:] = torch.tensor([0.5, 0.0])  # right of the centre
        discs.log_radius[:] = -1.2  # radius .3
        discs.color[:] = torch.tensor([9.0, -9.0, -9.0])
    image = discs()[0]
    assert torch.allclose(image[:, 32, 48], torch.tensor([1.0, 0.0, 0.0]), atol=1e-3)
    assert torch.allclose(image[:, 32, 16], torch.full((3,), 0.5), atol=1e-3)


def test_a_stroke_follows_its_curve():
    curves = Curves(1, count=1, sharpness=60)
    with torch.no_grad():
        curves.control[:] = torch.tensor([[-0.8, 0.8], [-0.3, 0.8], [0.3, 0.8], [0.8, 0.8]])
        curves.log_width[:] = -2.0
        curves.color[:] = 9.0
    image = curves()[0, 0]
    assert image[57, 8:56].min() > 0.99  # y = .8 is the row below the middle
    assert (image[:40] - 0.5).abs().max() < 1e-3


def test_curves_begin_and_end_at_their_control_points():
    basis = bernstein(9)
    assert torch.allclose(basis.sum(dim=1), torch.ones(9))
    assert torch.equal(basis[[0, -1]], torch.eye(4)[[0, 3]])


def test_later_layers_cover_earlier_ones():
    opacity = torch.tensor([1.0, 0.25]).reshape(1, 2, 1, 1)
    color = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    image = composite(opacity, color, torch.zeros(1, 3))
    assert torch.allclose(image.flatten(), torch.tensor([0.75, 0.25, 0.0]))


def test_discs_move_to_where_a_prior_wants_them():
    """A mixture with one mean, in closed form: SDS finds it."""
    target = torch.zeros(1, 3, SIZE, SIZE)
    target[:, 0] = 1.0
    condition = text(0, 1, k=1, shape=target.shape[1:])
    condition.text.tokens[:] = target.flatten()
    prior = Mixture(shape=target.shape[1:])
    settings = SDSSettings(guidance=df.Schedule.constant(1.0))
    discs = Discs(1, count=5)
    before = (discs() - target).abs().mean()
    conditions = df.Conditions(condition, condition)
    found = distil(discs, settings.build(prior, seed=0), conditions, steps=80)
    assert (found - target).abs().mean() < 0.3 * before


def test_samples_of_the_mixture_have_its_shares_and_sds_has_no_spread():
    prior = sampling.Mixture()
    samples = sampling.mixture_samples(prior)
    assert abs((samples > 0).float().mean() - 0.3) < 0.03
    assert abs(samples[samples < 0].std() - 0.35) < 0.03
    found = sampling.mixture_sds(prior, 0.02, 0.3)
    assert found[found < 0].std() < 0.1 and found[found > 0].std() < 0.1


def test_the_mixture_predicts_its_posterior_mean():
    prior, alpha, sigma = sampling.Mixture(), 0.8, 0.6
    t = (prior.alphas - alpha).abs().argmin()
    alpha, sigma = prior.alphas[t], prior.sigmas[t]
    x = torch.linspace(-4, 4, 4001)
    z = torch.tensor([[-1.0], [0.3], [1.0]])
    share = prior.density(x) * torch.exp(-((z - alpha * x) ** 2) / (2 * sigma**2))
    wanted = (share * x).sum(dim=1) / share.sum(dim=1)
    found = prior.predict(z, t.repeat(3), df.Condition(sampling.NO_TEXT))
    assert torch.allclose(found[:, 0], wanted, atol=1e-4)


def test_measures_of_true_images():
    subjects = Subjects.of("mug,corgi", 2)
    assert subjects.nouns == ("mug", "mug", "corgi", "corgi")
    true = subjects.examples()
    found = subjects.measure(true)
    assert found["noun"] == 1 and found["psnr"] > 50 and found["diversity"] > 0.05
    gray = true.mean(dim=1, keepdim=True).expand_as(true)
    same = true[[0, 0, 2, 2]]
    assert subjects.measure(gray)["saturation"] < 1e-6 < found["saturation"]
    assert subjects.measure(gray)["psnr"] < 25 and subjects.diversity(same) == 0
    assert subjects.measure(true.round())["extreme"] == 1


def test_only_the_loss_through_the_network_keeps_its_activations(prior):
    sds, through = (jacobian.bytes_kept(prior, name, 1.0) for name in jacobian.METHODS)
    assert sds <= 2 * 3 * SIZE * SIZE * 4 and through > 100 * sds


def test_figures_have_lines_and_captions():
    series = {"a": ([0.0, 0.5, 1.0], [0.1, 1.0, 10.0]), "b": ([0.0, 1.0], [1.0, 1.0])}
    for log in (False, True):
        colors = plots.lines(series, title="t", x_label="x", log=log).getcolors(10**6)
        assert {(31, 119, 180), (214, 39, 40)} <= {color for _, color in colors}
    images = torch.rand(2, 3, 8, 8)
    assert plots.image_rows({"a": images, "b": images}, label_width=50).size == (50 + 18, 20)
    rows = {"one": torch.zeros(1, 3, 16, 16), "two": torch.zeros(2, 3, 16, 16)}
    sheet = np.asarray(plots.image_rows(rows, label_width=50))
    assert sheet.shape == (36, 50 + 34, 3)
    assert (sheet[:16, 50:66] == 0).all() and (sheet[:16, 66:] == 255).all()
    assert (sheet[:16, :50] < 255).any() and (sheet[18:34, :50] < 255).any()
    figure = plots.image_columns({"a": images, "b\nc": images}, size=16)
    assert figure.size == (34, 6 + 32 + 34)


def test_a_table_has_all_columns():
    result = Result(
        [{"a": "x", "b": 0.12345}, {"a": "long name", "c": 2}], Image.new("RGB", (1, 1))
    )
    assert result.table().splitlines() == [
        "a          b      c",
        "x          0.123",
        "long name         2",
    ]


def test_the_command_writes_the_table_and_the_figure(tmp_path, capsys, monkeypatch, prior):
    monkeypatch.setattr(df.DiffusionPrior, "from_pretrained", lambda name: prior)
    monkeypatch.setattr(levels, "RANGES", {"t = .5": (0.5, 0.5)})
    main(["levels", str(tmp_path), "--steps", "1"])
    assert "t = .5" in capsys.readouterr().out
    content = json.loads((tmp_path / "levels.json").read_text())
    assert content["steps"] == 1 and len(content["rows"]) == 2
    for ending in ("png", "webp"):
        with Image.open(tmp_path / f"levels.{ending}") as image:
            assert image.size == (226, 492)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "out"], "invalid choice: 'nothing'"),
        (["levels", "out", "--steps", "0"], "'0' is not a positive whole number"),
        (["levels", "pyproject.toml"], "pyproject.toml cannot be a folder: File exists"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs(name, tmp_path, monkeypatch, prior):
    monkeypatch.setattr(df.DiffusionPrior, "from_pretrained", lambda name: prior)
    main([name, str(tmp_path), "--steps", "1", "--seeds", "2"])
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.width > 300


def test_the_page_has_the_command_and_the_figure_of_each_experiment():
    page = PAGES["docs/why-sds.md"]
    assert re.findall(r"^python -m scripts\.why_sds (\w+) ", page, re.MULTILINE) == [*EXPERIMENTS]
    assert re.findall(r"results/why-sds/(\w+)\.webp", page) == [*EXPERIMENTS]
