"""The table of errors of half precision."""

from __future__ import annotations

import sys

from scripts import measure_precision
from tests.helpers.tiny_priors import save_pixel_prior


def test_float16_is_eight_times_more_precise_than_bfloat16(tmp_path, monkeypatch, capsys):
    """It has three more bits of mantissa."""
    prior = save_pixel_prior(tmp_path / "pixel")
    monkeypatch.setattr(sys, "argv", ["measure_precision", str(prior), "--pictures", "2"])
    capsys.readouterr()
    measure_precision.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    (_, half, *near), (_, brain, *far) = rows[2:]
    assert (half, brain) == ("float16", "bfloat16")
    for a, b in zip(near[:-1], far[:-1], strict=True):
        assert 4 < float(b.rstrip("%")) / float(a.rstrip("%")) < 16
    assert 0 <= float(near[-1].rstrip("%")) < 100  # the largest activation relative to the range
