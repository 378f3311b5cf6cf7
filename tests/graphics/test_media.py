import subprocess

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.graphics.media import (
    contact_sheet,
    to_bytes,
    write_animation,
    write_frames,
    write_mp4,
    write_png,
)


def test_png_round_trip_leaves_one_file(tmp_path):
    image = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "new" / "a.png"
    write_png(image, path)
    assert (imageio.imread(path) == to_bytes(image)).all()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_contact_sheet_places_images_in_rows():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 4, 5, 3) / 4
    sheet = contact_sheet(images, columns=2, gap=1)
    assert sheet.shape == (9, 11, 3)
    assert sheet[0, 0, 0] == 0 and sheet[0, 6, 0] == 0.25 and sheet[5, 0, 0] == 0.5
    assert (sheet[4] == 1).all() and (sheet[5:, 6:] == 1).all()


# The pipes of imageio-ffmpeg's reader are closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_mp4_has_all_frames_and_their_colors(tmp_path, size):
    frames = torch.zeros(6, *size, 3)
    frames[..., 0] = torch.linspace(0, 1, 6)[:, None, None]
    write_mp4(frames, tmp_path / "a.mp4", fps=10)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    width, height = next(reader)["size"]
    read = np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader])
    assert read.shape == (6, size[0] // 2 * 2, size[1] // 2 * 2, 3)
    assert abs(read[5, 8, 8, 0] / 255 - 1) < 0.1 and read[0, 8, 8, 0] < 25
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations_loop_and_can_be_transparent(tmp_path, kind):
    frames = torch.zeros(3, 16, 24, 4)
    frames[:, 4:12, 4:20] = torch.tensor([1.0, 0, 0, 1])
    frames[1, 4:12, 4:20] = torch.tensor([0.0, 0, 1, 1])
    frames[:, 3, 4:20] = torch.tensor([0.0, 0, 0, 0.25])  # a soft edge
    path = tmp_path / f"a.{kind}"
    write_animation(frames, path, fps=10)
    with Image.open(path) as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0
        for i, color in enumerate([(255, 0, 0), (0, 0, 255), (255, 0, 0)]):
            animation.seek(i)
            picture = np.asarray(animation.convert("RGBA")).astype(int)
            assert animation.info["duration"] == 100
            assert np.abs(picture[8, 12, :3] - color).max() < 12 and picture[8, 12, 3] == 255
            assert picture[0, 0, 3] == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="at least one frame"):
        write_animation([], path)


def test_a_shorter_animation_leaves_no_old_frames(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_frames(torch.zeros(3, 4, 4, 3), tmp_path)
    files = write_frames(torch.ones(2, 4, 4, 4), tmp_path)
    assert [file.name for file in files] == ["frame_0000.png", "frame_0001.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "frame_0000.png", "frame_0001.png", "notes.txt",
    ]  # fmt: skip
    assert imageio.imread(files[1]).shape == (4, 4, 4)


def test_mp4_contains_its_color_space(tmp_path):
    """Otherwise Chromium shows this red as (0.83, 0.11, 0.07)."""
    color = torch.tensor([0.88, 0.0, 0.08])
    write_mp4(color.expand(2, 32, 32, 3), tmp_path / "a.mp4")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"]
    shown = subprocess.run(
        [*ffmpeg, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    assert b"yuv420p(tv, bt709/bt709/iec61966-2-1" in shown.stderr
    pixel = np.frombuffer(shown.stdout, np.uint8).reshape(2, 32, 32, 3)[0, 16, 16] / 255
    assert np.abs(pixel - color.numpy()).max() < 0.02


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        to_bytes(torch.full((1, 1, 3), torch.nan))
    assert to_bytes(torch.tensor([[[-1.0, 0.5, 2.0]]])).tolist() == [[[0, 128, 255]]]
