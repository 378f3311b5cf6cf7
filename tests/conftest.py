"""Variables that must be set before libraries are imported: tests use no network, idle threads
sleep (see cli.main), and without a GPU, Triton's kernels are interpreted."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per process: more are slower in parallel tests
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import yaml

from tests.helpers import checked_shapes

checked_shapes.install()

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _old_names_of_settings_are_reported_in_every_test(monkeypatch):
    """A process warns only once, which could be in another test."""
    monkeypatch.setattr("dreamfusion.config.nested._warned", False)


@pytest.fixture
def one_thread():
    """More threads do not help with such small images, and are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SMALL = {
    "camera": {"views": 2},
    "render": {"resolution": 16},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 3},
        "optimizer": {"ema": 0.9},
    },
    "output": {
        "checkpoint_every": 3, "preview_every": 4, "video_frames": 2, "video_size": 32,
        "mesh_resolution": 24, "texture_size": 32,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """The command line in separate processes that start fast."""
    from tests.helpers.forks import Forks
    from tests.helpers.tiny_priors import save_pixel_prior

    folder = tmp_path_factory.mktemp("forks")
    save_pixel_prior(folder / "prior")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SMALL))
    command = ["train", "a red puppy", "--prior", folder / "prior", "--steps", 2]
    with Forks(*command, "--config", folder / "settings.yaml") as server:
        yield server
