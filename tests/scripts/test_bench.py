"""The benchmark runs at a small size on a CPU, so that it will work on a GPU."""

from __future__ import annotations

import re
import sys

import pytest

from scripts import bench, random_pipelines

_SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd", "sdxl")]


@pytest.mark.parametrize("kind", ["if", *_SLOW])
def test_the_benchmark_prints_its_tables(kind, tmp_path, monkeypatch, capsys):
    prior = str(tmp_path / kind)
    monkeypatch.setattr(sys, "argv", ["random_pipelines", kind, prior, "--tiny"])
    random_pipelines.main()
    command = ["bench", "--prior", prior, "--points", "4096", "--profile", "--device", "cpu"]
    command += ["--warm-up", "1", "--repeats", "1", "--", "camera.views=1"]
    command += ["output.video_frames=2", "output.video_size=16", "output.mesh_resolution=16"]
    command += ["output.texture_size=64", "scene.field.log2_table_size=12"]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    said = capsys.readouterr().out
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", said, flags=re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names[0].startswith("prior, forward, 1 views")
    assert names[1].startswith("autoencoder") == (kind != "if")
    assert sum(name.startswith("SDS step") for name in names) == 4
    assert all(float(seconds) > 0 for _, seconds, _ in rows)
    assert "| numba |" in said and "peak memory" in said
    for stage in ("finding the surface", "baking the texture", "drawing the video"):
        assert re.search(rf"^\| {stage} \| [\d.]+ \|$", said, flags=re.MULTILINE)
    assert "Self CPU" in said
    assert re.search(r"^\| 3000 \| [\d.]+ \|$", said, flags=re.MULTILINE)  # splats
    assert re.search(r"^\| 10,224 \| [\d.]+ \| [\d.]+ \|$", said, flags=re.MULTILINE)  # faces
