"""Curves as SVG."""

import re
from itertools import pairwise

import pytest

from dreamfusion.report.curves import HEIGHT, WIDTH, Series, chart, number, smooth, ticks


def coordinates(svg, kind="line"):
    (path,) = re.findall(rf'class="{kind}"[^>]* d="M([^"]*)"', svg)
    return [tuple(map(float, point.split())) for point in path.split("L")]


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.13, 0.1) == [-0.1, -0.05, 0.0, 0.05, 0.1]
    assert ticks(1, 330, most=7) == [50, 100, 150, 200, 250, 300]


def test_numbers_are_short():
    written = [number(value) for value in (0.25, 12, 1500, 2e6, 1e-5, 0, -3000)]
    assert written == ["0.25", "12", "1.5k", "2M", "1e-05", "0", "-3k"]


def test_smoothing_keeps_lines_and_ends():
    line = [float(i) for i in range(20)]
    assert smooth(line, 3) == pytest.approx(line)
    assert smooth([0, 3, 0], 1).tolist() == [0, 1, 0]
    assert smooth([5.0], 4).tolist() == [5.0]


def test_a_curve_rises_where_its_values_do():
    points = coordinates(chart([Series("x", 0, range(1, 21), range(20))], "a title"))
    assert all(x0 < x1 and y0 > y1 for (x0, y0), (x1, y1) in pairwise(points))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_values_over_many_powers_get_a_logarithmic_axis():
    svg = chart([Series("x", 0, range(5), [1e-3, 1e-1, 1e1, 1e3, 1e5])], "norm")
    heights = [y for _, y in coordinates(svg)]
    steps = [a - b for a, b in pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)
    assert ">0.01<" in svg and ">10k<" in svg
    many = chart([Series("x", 0, [0, 1], [1e-30, 1e30])], "many powers")
    assert 3 <= many.count('class="grid"') < 8


def test_many_steps_make_a_small_chart_that_keeps_the_peaks():
    values = [0.0] * 50_000
    values[31_234] = 1.0
    svg = chart([Series("x", 0, range(50_000), values)], "peak")
    assert len(svg) < 40_000
    assert min(y for _, y in coordinates(svg, "raw")) < 20


def test_a_single_step_and_a_constant_are_drawn():
    assert "<circle" in chart([Series("x", 0, [7], [0.5])], "one")
    assert coordinates(chart([Series("x", 0, [1, 2], [3.0, 3.0])], "constant"))
    assert coordinates(chart([Series("x", 0, [1, 2], [0.0, 0.0])], "zeros"))


def test_labels_are_escaped():
    assert "<b>" not in chart([Series("<b>", 0, [1, 2], [1, 2])], '"<b>')
