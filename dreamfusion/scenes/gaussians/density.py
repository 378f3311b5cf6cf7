"""The density of splats on a grid, as a numba kernel."""

import numpy as np

from dreamfusion.utils.compiling import compiled

_MOST_POWER = 4.5  # three standard deviations


@compiled(nogil=True, error_model="numpy")
def add_density(start, stop, means, covariances, inverses, opacities, grid):  # type: ignore[no-untyped-def]
    """Add the splats to some layers of the grid."""
    n = grid.shape[0]
    cell = 2.0 / n
    for i in range(len(means)):
        reach = np.sqrt(2.0 * _MOST_POWER * np.diag(covariances[i]))
        low = np.maximum(np.ceil((means[i] - reach + 1.0) / cell - 0.5), 0.0).astype(np.int64)
        high = np.minimum(np.floor((means[i] + reach + 1.0) / cell - 0.5), n - 1.0).astype(np.int64)
        Q = inverses[i]
        for x in range(max(low[0], start), min(high[0], stop - 1) + 1):
            a = (x + 0.5) * cell - 1.0 - means[i, 0]
            for y in range(low[1], high[1] + 1):
                b = (y + 0.5) * cell - 1.0 - means[i, 1]
                for z in range(low[2], high[2] + 1):
                    c = (z + 0.5) * cell - 1.0 - means[i, 2]
                    power = 0.5 * (Q[0, 0] * a * a + Q[1, 1] * b * b + Q[2, 2] * c * c)
                    power += Q[0, 1] * a * b + Q[0, 2] * a * c + Q[1, 2] * b * c
                    if power < _MOST_POWER:
                        grid[x, y, z] += opacities[i] * np.exp(-power)
