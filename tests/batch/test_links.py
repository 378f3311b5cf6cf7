"""Links to the models of a batch."""

import pytest

from dreamfusion.batch.driver import prepare
from dreamfusion.batch.jobs import BatchFolder, write_json
from dreamfusion.batch.links import link_models, link_names
from dreamfusion.utils.files import make_link
from tests.helpers.fast_attempts import job


@pytest.fixture
def batch(tmp_path):
    return BatchFolder(tmp_path / "toys")


def finish(batch, *jobs):
    folders = prepare(batch, jobs)
    for folder in folders:
        folder.result.mesh.mkdir(parents=True)
        (folder.result.mesh / "model.glb").write_text(folder.path.name)
        write_json(folder.done_file, {"run": "run"})
    return folders


def links(batch):
    return {link.name: link.read_text() for link in batch.path.glob("*.glb")}


def test_finished_models_are_linked_by_prompt_and_seed(batch):
    (mug,) = finish(batch, job("a blue mug"))
    prepare(batch, [job("a chair")])  # not done
    assert link_models(batch) == [batch.path / "a-blue-mug.glb"]
    assert links(batch) == {"a-blue-mug.glb": mug.path.name}
    (again,) = finish(batch, job("a blue mug", seed=1))
    link_models(batch)  # now there are two, and neither was chosen
    assert links(batch) == {
        "a-blue-mug-s0.glb": mug.path.name,
        "a-blue-mug-s1.glb": again.path.name,
    }
    (batch.path / "best").mkdir()
    make_link(batch.path / "best" / "a-blue-mug", again.result.path)
    link_models(batch)
    assert links(batch)["a-blue-mug.glb"] == again.path.name and len(links(batch)) == 3


def test_a_file_of_the_user_is_kept(batch):
    finish(batch, job("a mug"))
    (batch.path / "a-mug.glb").write_text("mine")
    assert link_models(batch) == [] and links(batch) == {"a-mug.glb": "mine"}


def test_two_settings_of_a_seed_have_the_names_of_their_jobs(batch):
    one, two = finish(batch, job("a mug"), job("a mug", steps=5))
    link_models(batch)
    assert set(links(batch)) == {f"{one.path.name}.glb", f"{two.path.name}.glb"}


def test_prompts_with_the_same_slug_have_names_of_their_own():
    names = link_names(["a mug", "a mug!"])
    assert len(set(names.values())) == 2 and all(n.startswith("a-mug-") for n in names.values())
