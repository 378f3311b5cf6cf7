"""The studio's server: who may ask, what it answers, and what it keeps in the folder."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dreamfusion.batch.driver import ENDS, prepare
from dreamfusion.batch.jobs import BatchFolder, State
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.cli.app import main
from dreamfusion.studio.library import Studio
from dreamfusion.studio.queue import Queue
from dreamfusion.studio.server import MOST_BYTES, MOST_UPLOADED, Server, serving
from dreamfusion.utils.errors import UserError
from tests.helpers.glb_files import artists_file
from tests.studio.conftest import studio


def ask(url, path, content=None, *, method=None, raw=None, **headers):
    """The status and the JSON answer of a request, which is sent exactly as given."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    body = raw if raw is not None else None if content is None else json.dumps(content)
    sent = {"Content-Type": "application/json"} if body is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), parts.path + path, body, sent)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text


@pytest.fixture(scope="module")
def library(tmp_path_factory, options):
    """A studio whose queue does not run."""
    root = BatchFolder(tmp_path_factory.mktemp("studio"))
    settings = Options(prior=options[1], config=options[3])
    return Studio(root, Queue(root), settings)


@pytest.fixture(scope="module")
def url(library):
    with serving(library, port=0) as server:
        yield server.url


def test_the_page_and_its_parts_are_served(url):
    for path in ("", "studio.css", "studio.js", "viewer.js"):
        status, content = ask(url, path)
        assert status == 200 and len(content) > 500


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "OWN"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80", "Origin": "http://evil.example:80"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
    ],
)
def test_requests_of_other_origins_are_refused(url, headers, status):
    own = {k: url.rstrip("/") if v == "OWN" else v for k, v in headers.items()}
    assert ask(url, "state", **own)[0] == status


def test_a_page_elsewhere_cannot_act(url, library):
    before = library.state()
    for headers in ({"Origin": "http://evil.example"}, {"Content_Type": "text/plain"}):
        assert ask(url, "make", {"prompt": "a mug"}, **headers)[0] in (400, 403)
    assert library.state() == before


def test_large_or_malformed_bodies_are_refused_before_they_are_parsed(url, library, monkeypatch):
    for raw in ("{", "[1]"):
        assert ask(url, "check", raw=raw)[1] == {"error": "the body is not an object in JSON"}
    assert ask(url, "check", raw="[" * 60_000)[0] == 404
    monkeypatch.setattr(library, "act", None)
    status, _ = ask(url, "check", raw="x", Content_Length=str(MOST_BYTES + 1))
    assert status == 413


@pytest.mark.parametrize(
    ("action", "asked", "error"),
    [
        ("check", {"prompt": 3}, "prompt must be text of at most 1000 characters"),
        ("make", {"prompt": "a mug", "seeds": 9}, "seeds must be a whole number from 1 to 8"),
        ("make", {"prompt": "a mug", "steps": "x"},
         "steps must be a whole number from 1 to 100,000"),
        ("stop", {"job": "../.."}, "there is no job ../.."),
        ("pick", {}, "job must be text of at most 1000 characters"),
        ("format", {}, "job must be text of at most 1000 characters"),
    ],
)  # fmt: skip
def test_a_bad_request_is_an_error_of_one_line(url, action, asked, error):
    status, answer = ask(url, action, asked)
    assert status in (404, 422) and answer["error"] == error


def test_a_prompt_is_checked_as_it_is_typed(url):
    assert ask(url, "check", {"prompt": "a red puppy"}) == (200, {"reading": "red corgi"})
    advice = {"advice": "This prior does not know 'dragon'."}
    assert ask(url, "check", {"prompt": "a dragon"}) == (200, advice)


def test_jobs_are_in_the_folder_and_seeds_are_new(url, library):
    first = ask(url, "make", {"prompt": "a red mug", "seeds": 2})[1]["jobs"]
    second = ask(url, "make", {"prompt": "a red mug", "steps": 3})[1]["jobs"]
    jobs = {job["name"]: job for job in ask(url, "state")[1]["jobs"]}
    assert [jobs[name]["seed"] for name in (*first, *second)] == [0, 1, 2]
    assert jobs[second[0]]["steps"] == 3 and jobs[first[0]]["state"] == "new"
    assert set(library._batch_folder.jobs()) == set(jobs)


def test_a_stopped_job_waits_until_it_is_resumed(url, library):
    (name,) = ask(url, "make", {"prompt": "a chair"})[1]["jobs"]
    assert ask(url, "stop", {"job": name}) == (200, {})
    folder = library._batch_folder.jobs()[name]
    assert folder.state() is State.stopped and State.stopped in ENDS
    assert ask(url, "resume", {"job": name}) == (200, {})
    assert folder.state() is State.new


def _upload(url, name, content, **headers):
    kind = {"Content_Type": "application/octet-stream"}
    return ask(url, f"upload/{name}", raw=content, **kind | headers)


def test_an_uploaded_mesh_is_kept_and_painted(url, library, tmp_path):
    content = artists_file(tmp_path / "car.glb").read_bytes()
    status, answer = _upload(url, "My%20Car.glb", content)
    stored = library._batch_folder.path / "meshes" / answer["mesh"]
    assert status == 200 and stored.read_bytes() == content
    assert stored.name.startswith("my-car-") and stored.suffix == ".glb"
    assert _upload(url, "My%20Car.glb", content)[1] == answer  # again: the same file
    asked = {"prompt": "a red mug", "mesh": answer["mesh"], "up": "+z", "front": "-y"}
    (name,) = ask(url, "make", asked)[1]["jobs"]
    scene = library._batch_folder.jobs()[name].read().config["scene"]
    assert (scene["name"], scene["file"], scene["up"]) == ("mesh", str(stored), "+z")
    for wrong in ({"mesh": "../job.json"}, {"mesh": "gone.glb"}, {"up": "sideways"}, {"up": "-y"}):
        status, answer = ask(url, "make", asked | wrong)
        assert status in (404, 422) and len(answer["error"].splitlines()) == 1


def test_uploads_are_checked_before_they_are_read(url, library, tmp_path, monkeypatch):
    content = artists_file(tmp_path / "car.glb").read_bytes()
    folder = library._batch_folder.path / "meshes"
    before = sorted(folder.glob("*")) if folder.exists() else []
    assert _upload(url, "car.glb", content, Content_Type="application/json")[0] == 400
    assert _upload(url, "car.glb", content, Origin="http://evil.example")[0] == 403
    assert _upload(url, "car.glb", b"x", Content_Length=str(MOST_UPLOADED + 1))[0] == 413
    for name in ("car.3mf", "car.py", "..%2F..%2Fcar", "car"):
        assert "the formats are" in _upload(url, name, content)[1]["error"]
    # A damaged file is named as its sender did, and not kept.
    assert _upload(url, "car.glb", content[:200])[1]["error"].startswith("cannot read car.glb")
    assert "it has no faces" in _upload(url, "a.obj", b"v 0 0 0")[1]["error"]
    monkeypatch.setattr("dreamfusion.studio.library.read_model", None)
    for name in ("car.ply", "car.stl", "car.obj"):
        assert "is not a" in _upload(url, name, content)[1]["error"]
    assert "is not a glb file" in _upload(url, "car.glb", b"<svg/>")[1]["error"]
    assert sorted(folder.glob("*")) == before


def test_only_files_of_the_folder_are_served(url, library, tmp_path):
    (name,) = ask(url, "make", {"prompt": "a corgi"})[1]["jobs"]
    run = library.run(name)
    run.mesh.mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (run.mesh / "link.glb").symlink_to(tmp_path / "secret.txt")
    for path in ("download/NAME/link.glb", "download/NAME/..%2fconfig.yaml", "model/NAME",
                 "download/NAME/..%2f..%2f..%2f..%2fetc%2fpasswd", "thumbnail/NAME", "preview/x",
                 "..%2f..%2fetc%2fpasswd", "download/..%2f..%2f/config.yaml"):  # fmt: skip
        status, answer = ask(url, path.replace("NAME", name))
        assert status in (404, 422) and "secret" not in str(answer) + "error", path
    (run.mesh / "link.glb").unlink()


def test_other_machines_need_the_token(library):
    with serving(library, host="0.0.0.0", port=0) as server:
        assert len(server.token) >= 32 and server.url.endswith(f"/{server.token}/")
        here = f"http://127.0.0.1:{server.server_port}/"
        assert ask(here, "state")[0] == 403 and ask(here, "")[0] == 403
        assert ask(here, f"{server.token[:-1]}/state")[0] == 403
        assert ask(here, f"{server.token}/state")[0] == 200
        assert ask(here, f"{server.token}/state", Origin="http://evil.example")[0] == 403


def test_a_taken_port_is_an_error_of_one_line(library, url):
    port = urlsplit(url).port
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1, port {port}: "):
        Server(library, "127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen at not a host"):
        Server(library, "not a host", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_studio_cleanly(tmp_path, options, number):
    with studio(tmp_path / "made", *options) as (url, process):
        assert ask(url, "state")[1]["jobs"] == []
        assert main(["studio", str(tmp_path / "made"), *options]) == 2  # one queue for a folder
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "closed\n", "")


def wait_for(url: str, name: str, states: set[str], seconds: float = 240) -> dict:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = next(job for job in ask(url, "state")[1]["jobs"] if job["name"] == name)
        if job["state"] in states:
            return job
        time.sleep(0.3)
    raise AssertionError(f"{job} never was {states}")


@pytest.mark.slow
def test_a_killed_studio_goes_on_and_a_failed_job_has_its_one_line(tmp_path: Path, options):
    folder = tmp_path / "made"
    settings = Options(prior=options[1], config=options[3])
    with studio(folder, *options, "--steps", "400") as (url, process):
        (name,) = ask(url, "make", {"prompt": "a red mug"})[1]["jobs"]
        job = BatchFolder(folder).jobs()[name]
        end = time.monotonic() + 120
        while not any(job.run.checkpoints.glob("step_*.json")) and time.monotonic() < end:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with studio(folder, *options) as (url, _):
        assert ask(url, "resume", {"job": name}) == (200, {})
        assert ask(url, "stop", {"job": name}) == (200, {})
        stopped = wait_for(url, name, {"stopped"})
        assert 0 < stopped["step"] < 400
        ask(url, "resume", {"job": name})
        (run_file,) = plan_jobs([Entry("x", "a chair")], settings)
        folders = prepare(BatchFolder(folder), [run_file])
        folders[0].run.path.write_text("a file where the run would be")
        ask(url, "resume", {"job": folders[0].path.name})
        failed = wait_for(url, folders[0].path.name, {"failed"})
        assert failed["error"].endswith("is a file; choose another folder with --out")
        assert wait_for(url, name, {"done"})["step"] == 400
