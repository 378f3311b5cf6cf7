import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.config.layers import build_config
from dreamfusion.scenes.nerf import hashgrid, volume
from dreamfusion.scenes.nerf.hashgrid import ENCODING, encoding_backend
from dreamfusion.scenes.nerf.hashgrid.reference import check_encoding
from dreamfusion.scenes.nerf.ray_marching import MARCHING
from dreamfusion.scenes.nerf.ray_marching.reference import check_marching, march_reference
from dreamfusion.scenes.nerf.scene import OPERATIONS, Backends, chosen_backends
from dreamfusion.scenes.nerf.volume import COMPOSITING, compositing_backend, render_weights
from dreamfusion.utils import backends
from dreamfusion.utils.backends import AcceleratorError, choose, probe
from tests.helpers import ROOT, encodings, fake_packages
from tests.helpers.backends import skip_if_absent
from tests.helpers.encodings import LAYOUTS, assert_agrees_with_float64, random_problem
from tests.helpers.marching import GRIDS, assert_nearly_the_same, many_rays
from tests.helpers.tiny_priors import save_pixel_prior

LIBRARY = "libcudart.so.99: cannot open shared object file:\n  no such file"


def chosen_for(settings, device):
    config = build_config(settings)
    return chosen_backends(config.scene, device)


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    probe.cache_clear()
    yield
    probe.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """Simulates a GPU on which nothing must run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def broken(monkeypatch, tmp_path, gpu):
    """All accelerators are installed, but triton does not compile, and tinycudann and nerfacc do
    not load."""

    def fail():
        raise RuntimeError("PTXAS error: Value 'sm_999' is not defined\nfor option 'gpu-name'")

    for name in ("triton", "tinycudann", "nerfacc"):
        body = "" if name == "triton" else f"raise ImportError({LIBRARY!r})\n"
        (tmp_path / f"{name}.py").write_text(body)
        for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, key)
    monkeypatch.syspath_prepend(tmp_path)
    for operation in (ENCODING, MARCHING):
        monkeypatch.setitem(operation.kernels, "triton", fail)
    yield
    for name in ("triton", "tinycudann", "nerfacc"):
        sys.modules.pop(name, None)


@pytest.fixture
def absent(monkeypatch):
    """No accelerator is installed."""
    monkeypatch.setattr(backends, "probe", lambda operation, name: backends.NOT_INSTALLED)


def test_numba_works_and_is_chosen_on_a_cpu():
    for operation in (ENCODING, MARCHING, COMPOSITING):
        assert probe(operation, "numba") is None
    chosen = chosen_for({}, "cpu")
    assert chosen == Backends("numba", "numba", "numba", ())
    assert str(chosen) == "encoding: numba, marching: numba, compositing: numba"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_probing_without_gradients_gives_the_same_result(mode):
    probe.cache_clear()
    with mode():
        assert encoding_backend("auto", "cpu", 4) == "numba"


def test_triton_works_in_its_interpreter():
    skip_if_absent("triton", "cpu")
    settings = {"scene": {"field": {"backend": "triton"}, "marching": {"backend": "triton"}}}
    assert chosen_for(settings, "cpu") == Backends("triton", "triton", "reference", ())


def test_triton_kernels_compile_to_machine_code_without_a_gpu(tmp_path):
    pytest.importorskip("triton", minversion="3.4", reason="needs Triton 3.4")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = ROOT / "tests" / "helpers" / "compile_kernels.py"
    command = [sys.executable, "-W", "error::UserWarning", script, "80", "90"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["_encode", "_encode", "_march", "_march"] * 2
    assert all(int(size) > 1000 for *_, size in lines)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("operation", "name"),
    [(operation, name) for operation in OPERATIONS for name in operation.kernels],
    ids=lambda case: case if isinstance(case, str) else case.name,
)
def test_installed_accelerators_work_on_the_gpu(operation, name):
    problem = probe(operation, name)
    if problem == backends.NOT_INSTALLED:
        pytest.skip(f"{name} is not installed")
    assert problem is None


@pytest.mark.parametrize("name", ["triton", "tinycudann", "nerfacc"])
def test_accelerators_that_need_a_gpu_are_reported_without_one(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    operation = next(operation for operation in OPERATIONS if name in operation.kernels)
    expected = "needs an NVIDIA GPU, and torch finds none"
    assert probe(operation, name) == (expected if find_spec(name) else backends.NOT_INSTALLED)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="encoding is done by one of numba, triton, tinycudann"):
        probe(ENCODING, "nerfacc")


def test_an_accelerator_that_fails_to_load_is_reported_in_one_line_and_skipped(broken):
    chosen = chosen_for({}, "cuda:1")
    assert chosen.encoding == chosen.marching == chosen.compositing == "reference"
    triton, tinycudann, triton_too, nerfacc = chosen.skipped
    assert triton.startswith("triton ") and tinycudann.startswith("tinycudann ")
    problem = "RuntimeError: PTXAS error: Value 'sm_999'"
    assert f"is installed but cannot be used for encoding: {problem}" in triton
    assert f"is installed but cannot be used for ray marching: {problem}" in triton_too
    reason = "ImportError: libcudart.so.99: cannot open shared object file: no such file"
    assert tinycudann.endswith(f"is installed but cannot be used for encoding: {reason}")
    assert nerfacc.endswith(reason)
    assert "\n" not in "".join(chosen.skipped)


def test_missing_accelerators_are_skipped_silently(absent):
    expected = Backends("reference", "reference", "reference", ())
    assert chosen_for({}, "cuda") == expected


@pytest.mark.parametrize("name", ["triton", "tinycudann", "nerfacc"])
def test_a_requested_accelerator_that_fails_is_an_error_of_one_line(broken, name):
    section = "marching" if name == "nerfacc" else "field"
    with pytest.raises(AcceleratorError) as error:
        chosen_for({"scene": {section: {"backend": name}}}, "cuda")
    message = str(error.value)
    assert message.startswith(f"{name} cannot be used: ")
    assert message.endswith(f"; install or repair it, or set scene.{section}.backend=auto")
    assert "\n" not in message


def test_an_accelerator_is_tested_once(broken, monkeypatch):
    tries = []

    def fail():
        tries.append("triton")
        raise RuntimeError("no")

    monkeypatch.setitem(ENCODING.kernels, "triton", fail)
    for _ in range(3):
        assert encoding_backend("auto", "cuda", 4) == "reference"
    assert tries == ["triton"]


def test_an_accelerator_that_fails_for_one_operation_is_used_for_another(
    gpu, monkeypatch, tmp_path
):
    def fail(march, device):
        raise RuntimeError("the marching kernel is broken")

    (tmp_path / "triton.py").write_text("")
    for key in [key for key in sys.modules if key.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, key)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENCODING.kernels, "triton", lambda: hashgrid.encode_reference)
    monkeypatch.setitem(MARCHING.kernels, "triton", lambda: march_reference)
    real = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda t, *a, **k: t if a == ("cuda",) else real(t, *a))
    assert encoding_backend("auto", "cuda", 4) == "triton"
    object.__setattr__(MARCHING, "self_test", fail)
    try:
        assert probe(MARCHING, "triton") == "RuntimeError: the marching kernel is broken"
    finally:
        object.__setattr__(MARCHING, "self_test", check_marching)
    sys.modules.pop("triton", None)


def test_the_order_of_auto(gpu, monkeypatch):
    working = {"triton", "tinycudann", "nerfacc"}

    def found(operation, name):
        return None if name in working else "broken"

    monkeypatch.setattr(backends, "probe", found)
    assert encoding_backend("auto", "cuda", 4) == choose(MARCHING, "auto", "cuda") == "triton"
    working.remove("triton")
    assert encoding_backend("auto", "cuda", 4) == "tinycudann"
    assert encoding_backend("auto", "cuda", 3) == "reference"
    assert choose(MARCHING, "auto", "cuda") == "nerfacc"
    assert compositing_backend("auto", "cuda") == "reference"
    assert compositing_backend("nerfacc", "cuda") == "nerfacc"
    assert encoding_backend("auto", "mps", 4) == choose(MARCHING, "auto", "mps") == "reference"
    with pytest.raises(
        AcceleratorError, match=r"tinycudann does not run on cpu; set scene\.field\.backend"
    ):
        encoding_backend("tinycudann", "cpu", 4)
    working.add("numba")
    with pytest.raises(
        AcceleratorError, match=r"numba does not run on cuda; set scene\.marching\.backend"
    ):
        choose(MARCHING, "numba", "cuda")


def test_results_that_differ_from_the_reference_are_refused(gpu, monkeypatch):
    def off_by_one(points, table, layout):
        return hashgrid.encode_reference(points, table, layout) + 1.0

    def no_gradient(points, table, layout):
        return hashgrid.encode_reference(points, table, layout).detach().requires_grad_()

    with pytest.raises(RuntimeError, match="its encoding differs from the reference's by 1"):
        check_encoding(off_by_one, "cpu")
    with pytest.raises(RuntimeError, match="it gives no gradient"):
        check_encoding(no_gradient, "cpu")

    def half(origins, *others):
        samples = march_reference(origins, *others)
        return samples.select(torch.arange(len(samples)) % 2 == 0)

    with pytest.raises(RuntimeError, match=r"finds \d+ samples instead of \d+"):
        check_marching(half, "cpu")


def test_the_command_line_reports_skipped_accelerators_in_one_line(
    absent, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    prior = str(save_pixel_prior(tmp_path / "prior"))
    capsys.readouterr()  # earlier output
    command = ["train", "a red mug", "--prior", prior, "--device", "cpu", "--steps", "2"]
    assert main([*command, "--set", "scene.field.backend=tinycudann"]) == 2
    assert capsys.readouterr().err == (
        "error: tinycudann cannot be used: not installed; install or repair it, or set "
        "scene.field.backend=auto\n"
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_one_tinycudann_grid_per_level_equals_the_reference_encoding(name, seed, monkeypatch):
    fake_packages.install(
        monkeypatch,
        "tinycudann",
        "dreamfusion.scenes.nerf.hashgrid.tinycudann",
        Encoding=fake_packages.Encoding,
    )
    from dreamfusion.scenes.nerf.hashgrid import tinycudann

    def encode(points, table, layout, *, backend):
        assert backend == "tinycudann"
        return tinycudann.encode_tinycudann(points, table, layout)

    monkeypatch.setattr(encodings, "encode", encode)
    layout = LAYOUTS[name]
    points, table, grad = random_problem(300, layout, seed)
    assert_agrees_with_float64("tinycudann", "cpu", points, table, grad, layout)


def fake_nerfacc(monkeypatch, part="ray_marching"):
    fake_packages.install(
        monkeypatch,
        "nerfacc",
        f"dreamfusion.scenes.nerf.{part}.nerfacc",
        traverse_grids=fake_packages.traverse_grids,
        render_weight_from_density=fake_packages.render_weight_from_density,
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GRIDS)
def test_the_nerfacc_adapter_returns_the_reference_samples(name, seed, monkeypatch):
    fake_nerfacc(monkeypatch)
    from dreamfusion.scenes.nerf.ray_marching.nerfacc import march_nerfacc

    rays = many_rays(5)
    make_grid, min_transmittance = GRIDS[name]
    jitter = torch.rand(len(rays.origins), generator=torch.Generator().manual_seed(seed))
    max_depth = -torch.tensor(min_transmittance).log().item()
    arguments = (rays.origins, rays.directions, jitter, make_grid(), 0.07, max_depth)
    expected, found = march_reference(*arguments), march_nerfacc(*arguments)
    assert len(expected) > 100
    assert_nearly_the_same(found, expected)


def test_the_nerfacc_adapter_returns_the_reference_weights(monkeypatch):
    fake_nerfacc(monkeypatch, "volume")
    monkeypatch.setattr(volume, "compositing_backend", lambda requested, *_: requested)
    from dreamfusion.scenes.nerf.ray_marching.nerfacc import weights_nerfacc

    monkeypatch.setitem(COMPOSITING.kernels, "nerfacc", lambda: weights_nerfacc)
    rays = many_rays(5)
    jitter = torch.full((len(rays.origins),), 0.5)
    samples = march_reference(
        rays.origins, rays.directions, jitter, GRIDS["ball"][0](), 0.07, float("inf")
    )
    generator = torch.Generator().manual_seed(0)
    density = 20.0 * torch.rand(len(samples), generator=generator)
    upstream = torch.rand(len(samples), generator=generator)
    results = []
    for backend in ("nerfacc", "reference"):
        leaf = density.clone().requires_grad_()
        out = render_weights(leaf, samples, backend=backend)
        ((out.weights * upstream).sum() + out.final_transmittance.square().sum()).backward()
        results.append((out.weights, out.final_transmittance, leaf.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
