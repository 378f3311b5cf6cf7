"""The walkthrough runs from end to end."""

import sys
from functools import partial

import pytest

import dreamfusion as df
from scripts import walkthrough

SMALL = {
    "output.video_frames": 2, "output.video_size": 32, "output.mesh_resolution": 32,
    "output.texture_size": 64,
}  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_the_whole_way(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(df, "train", partial(df.train, settings=SMALL))
    monkeypatch.setattr(sys, "argv", ["walkthrough", "--steps", "1", "--out", str(out)])
    walkthrough.main()
    said = capsys.readouterr().out
    for line in ("trained ", "looked ", "exported ", "mesh ", "resumed   11 steps"):
        assert line in said
    assert (out / "sheet.png").exists() and (out / "mesh" / "small.obj").exists()
