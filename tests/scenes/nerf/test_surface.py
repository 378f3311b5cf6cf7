"""The position of the surface of a radiance field."""

import numpy as np
import pytest
import torch

from dreamfusion.scenes.nerf.surface import find_threshold
from tests.helpers.solids import Balls, scene_of


@pytest.mark.parametrize("peak", [15.0, 100.0, 1e5])
@pytest.mark.parametrize("width", [0.003, 0.03])
def test_the_threshold_gives_the_rendered_silhouette_at_any_density(peak, width):
    field = Balls([[0.0, 0, 0, 0.5]], peak=peak, width=width)
    threshold = find_threshold(scene_of(field))
    # Where, along a diameter, the surface is; and where looking past gives an opacity of 1/2.
    r = torch.linspace(0.2, 0.95, 3001)
    along = torch.linspace(-1, 1, 801)
    past = torch.stack(torch.broadcast_tensors(r[::10, None], along, torch.zeros(1)), -1)
    depth = field.density(past.reshape(-1, 3)).reshape(past.shape[:2]).sum(1) * 0.0025
    rendered = r[::10][depth > np.log(2)].max()
    surface = r[field.density(torch.stack([r, r * 0, r * 0], -1)) > threshold].max()
    assert abs(surface - rendered) < 0.02
