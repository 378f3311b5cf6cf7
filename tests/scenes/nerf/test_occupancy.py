import pytest
import torch

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(centre: tuple[float, float, float], radius: float, height: float = 50.0):
    """A density that exceeds 0.3 exactly inside the given ball."""
    middle = torch.tensor(centre)

    def density(points: torch.Tensor) -> torch.Tensor:
        return 0.3 * torch.exp(height * (radius - (points - middle).norm(dim=-1)))

    return density


def test_everything_is_occupied_before_the_first_update():
    grid = OccupancyGrid(resolution=8)
    assert grid.occupied.all()


@pytest.mark.parametrize("seed", range(6))
def test_never_skips_density_above_the_threshold(seed):
    grid = OccupancyGrid(resolution=32)
    centre = tuple((torch.rand(3, generator=generator(seed)) * 1.6 - 0.8).tolist())
    density = ball(centre, 0.06 + 0.05 * seed)
    grid.update(density, generator(seed))
    points = torch.rand(200_000, 3, generator=generator(seed + 100)) * 2 - 1
    above = points[density(points) > grid.threshold]
    assert len(above) > 20
    assert grid.is_occupied(above).all()
    assert grid.occupied.float().mean() < 0.5


def test_follows_an_object_that_moves_away():
    grid = OccupancyGrid(resolution=16)
    grid.update(ball((-0.6, 0, 0), 0.2, height=40.0), generator())
    assert grid.is_occupied(torch.tensor([[-0.6, 0.0, 0.0]])).all()
    for seed in range(6):
        grid.update(ball((0.6, 0, 0), 0.2, height=5.0), generator(seed))
    occupied = grid.is_occupied(torch.tensor([[-0.6, 0.0, 0.0], [0.6, 0.0, 0.0]]))
    assert occupied.tolist() == [False, True]


def test_density_far_from_the_object_is_found():
    grid = OccupancyGrid(resolution=16)
    grid.update(ball((-0.6, 0, 0), 0.2), generator())
    far = torch.tensor([[0.6, 0.0, 0.0]])
    assert not grid.is_occupied(far).any()
    asked = []

    def density(points):
        asked.append(len(points))
        return ball((0.6, 0, 0), 0.4)(points)

    for seed in range(4):
        grid.update(density, generator(seed))
    assert grid.is_occupied(far).all()
    assert asked[0] < 0.4 * 16**3


def test_the_lower_bound_is_the_minimum_density_around_a_cell():
    grid = OccupancyGrid(resolution=16)
    grid.update(lambda p: torch.where(p[:, 0] > 0, 30.0, 0.05), generator())
    floor = grid.density_lower_bound(
        torch.tensor([[0.5, 0.0, 0.0], [0.06, 0.0, 0.0], [-0.06, 0.0, 0.0]])
    )
    assert floor.tolist() == pytest.approx([30.0, 0.05, 0.05])
    assert (grid.lower_bound[~grid.occupied] == 0).all() and (~grid.occupied).any()


def test_nan_density_keeps_its_cells_occupied():
    grid = OccupancyGrid(resolution=8)
    for seed in range(3):
        grid.update(
            lambda p: torch.where(p[:, 0] > 0.75, torch.nan, 0.0) * torch.ones(len(p)),
            generator(seed),
        )
    occupied = grid.is_occupied(torch.tensor([[0.9, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    assert occupied.tolist() == [True, False]


def test_outside_the_box_nothing_is_occupied():
    grid = OccupancyGrid(resolution=8)
    points = torch.tensor([[1.0, 1.0, 1.0], [1.001, 0, 0], [0, torch.nan, 0]])
    assert grid.is_occupied(points).tolist() == [True, False, False]


def test_state_round_trips_and_update_is_deterministic():
    first, second = OccupancyGrid(resolution=8), OccupancyGrid(resolution=8)
    first.update(ball((0, 0, 0), 0.3), generator(5))
    second.update(ball((0, 0, 0), 0.3), generator(5))
    assert torch.equal(first.density, second.density)
    third = OccupancyGrid(resolution=8)
    third.load_state_dict(first.state_dict())
    assert torch.equal(third.occupied, first.occupied)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="decay"):
        OccupancyGrid(decay=1.5)


def test_the_number_of_random_numbers_does_not_depend_on_the_scene():
    """Otherwise processes whose scenes differ in the last bit would diverge."""
    states = []
    for height in (0.0, 30.0):
        grid, own = OccupancyGrid(resolution=8), torch.Generator().manual_seed(0)
        for _ in range(2):
            grid.update(lambda p, h=height: torch.full((len(p),), h), own)
        states.append(own.get_state())
    assert torch.equal(*states)
