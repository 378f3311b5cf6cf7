import pytest

from dreamfusion.utils.whole_file import whole_file


def test_a_file_appears_when_it_is_whole_in_a_folder_that_need_not_be_there(tmp_path):
    path = tmp_path / "new" / "page.html"
    with whole_file(path) as file:
        file.write_text("half")
        assert file.suffix == ".html" and not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def write():
        with whole_file(path) as file:
            file.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
