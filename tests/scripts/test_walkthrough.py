"""The walkthrough runs from end to end."""

import sys

import pytest

from scripts import walkthrough


@pytest.mark.usefixtures("one_thread")
def test_the_whole_way(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["walkthrough", "--steps", "1", "--out", str(out)])
    walkthrough.main()
    said = capsys.readouterr().out
    for line in ("trained ", "looked ", "exported ", "mesh ", "resumed   11 steps"):
        assert line in said
    assert (out / "sheet.png").exists() and (out / "mesh" / "small.obj").exists()
