import pytest

from tests.helpers.simulated_kernels import simulated_cuda
from tests.helpers.tiny_priors import PRIORS


@pytest.fixture
def gpu(one_thread):
    """Two simulated NVIDIA GPUs; the first one is current."""
    with simulated_cuda() as gpu:
        yield gpu


@pytest.fixture(scope="package")
def folders(tmp_path_factory):
    """The folders of tiny priors of each kind, by name."""
    root = tmp_path_factory.mktemp("priors")
    return {kind: save(root / kind) for kind, save in PRIORS.items()}
