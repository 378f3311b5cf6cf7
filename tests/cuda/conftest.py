import pytest

from tests.helpers.pretended_kernels import pretended_cuda
from tests.helpers.tiny_priors import PRIORS


@pytest.fixture
def gpu(one_thread):
    """Two pretended NVIDIA GPUs; the first is the current one."""
    with pretended_cuda() as gpu:
        yield gpu


@pytest.fixture(scope="package")
def folders(tmp_path_factory):
    """The folder of a tiny prior of each kind, by its name."""
    root = tmp_path_factory.mktemp("priors")
    return {kind: save(root / kind) for kind, save in PRIORS.items()}
