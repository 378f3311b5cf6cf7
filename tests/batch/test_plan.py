"""Converting prompts to jobs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dreamfusion.batch.plan import BASE_MEMORY, GPU_BASE_MEMORY, Options, plan_jobs, request_of
from dreamfusion.batch.prompts import BatchError, Entry


def entries(*prompts):
    return [Entry(f"line {n}", prompt) for n, prompt in enumerate(prompts, start=1)]


def test_every_seed_and_setting_is_a_separate_job():
    grid = [{"estimator": {"guidance": 4}}, {"estimator": {"guidance": 8}}]
    jobs = plan_jobs(entries("a corgi", "a mug"), Options(seeds=3, settings=grid))
    assert len(jobs) == len({job.id for job in jobs}) == 12
    assert {(job.prompt, job.seed, job.config["estimator"]["guidance"]) for job in jobs} == {
        (prompt, seed, guidance)
        for prompt in ("a corgi", "a mug")
        for seed in range(3)
        for guidance in (4.0, 8.0)
    }
    assert all(job.config["seed"] == job.seed for job in jobs)


def test_the_id_depends_only_on_what_changes_results():
    def job(**options):
        (one,) = plan_jobs(entries("a corgi"), Options(**options))
        return one

    plain = job()
    assert job().id == plain.id
    # The same settings in another form.
    assert job(settings=[{"camera": {"views": 4}}], prior="embedded", config="embedded").id == (
        plain.id
    )
    others = [job(seed=1), job(threads=2), job(steps=7), job(settings=[{"camera": {"views": 2}}])]
    assert len({plain.id, *(one.id for one in others)}) == 5


def test_settings_of_an_entry_override_those_of_the_command():
    entry = Entry("line 1", "a corgi", seed=5, preset="fast-preview", settings={"steps": 9})
    (job,) = plan_jobs([entry], Options(seeds=3, steps=4))
    assert (job.seed, job.steps, job.preset) == (5, 9, "fast-preview")


def test_duplicate_entries_make_one_job():
    assert len(plan_jobs(entries("a corgi", "a corgi"), Options())) == 1


def test_all_errors_are_reported_at_once():
    with pytest.raises(BatchError) as error:
        plan_jobs(entries("a blorp", "a corgi", "a frobnic"), Options(seeds=2))
    assert str(error.value) == (
        "line 1: This prior does not know 'blorp'; line 3: This prior does not know 'frobnic'"
    )
    with pytest.raises(BatchError) as error:
        plan_jobs(entries("a corgi", "a dragon"), Options(seeds=2))
    assert str(error.value).startswith(
        "line 2: This prior does not know 'dragon' (closest: dinosaur). A prompt takes one noun, "
    )


def test_a_settings_file_is_stored_with_the_job(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: fast-preview\nsteps: 11\n")
    (job,) = plan_jobs(entries("a corgi"), Options(config=str(file)))
    assert job.steps == 11 and job.file == file.read_text() and job.preset is None


def test_a_relative_path_of_a_prior_works_in_other_folders(tmp_path, monkeypatch):
    from tests.helpers.tiny_priors import save_pixel_prior

    save_pixel_prior(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(entries("a red mug"), Options(prior="mine"))
    assert job.config["prior"]["name"] == str(tmp_path / "mine")


def test_resource_requests_of_jobs():
    need = request_of(plan_jobs(entries("a corgi"), Options(threads=2, device="cpu")))
    assert need.threads == 2 and need.gpu_memory == 0
    assert BASE_MEMORY < need.memory < BASE_MEMORY + 2**28
    gpu = request_of(plan_jobs(entries("a corgi"), Options(device="cuda", prior="embedded")))
    assert GPU_BASE_MEMORY < gpu.gpu_memory < GPU_BASE_MEMORY + 2**30
    more = Options(device="cuda", prior="embedded", settings=[{"camera": {"views": 16}}])
    assert request_of(plan_jobs(entries("a corgi"), more)).gpu_memory > gpu.gpu_memory


def test_unknown_prompts_are_refused_without_torch(tmp_path):
    (tmp_path / "list.txt").write_text("a blorp\n")
    code = (
        "import sys; from dreamfusion.cli.app import main; status = main(['batch', 'list.txt']);"
        "assert 'torch' not in sys.modules or __import__('os').path.exists('/proc/driver/nvidia');"
        "sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2 and "blorp" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "shelf").exists()
