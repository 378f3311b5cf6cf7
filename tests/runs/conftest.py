import pytest

from dreamfusion.priors import load_prior
from tests.helpers.tiny_priors import save_pixel_prior


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return save_pixel_prior(tmp_path_factory.mktemp("prior") / "pixel")


@pytest.fixture(scope="package")
def prior(folder):
    return load_prior(str(folder))
