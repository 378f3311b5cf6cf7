"use strict";
// The page of the studio. It asks the server for the state once a second and shows it; all that it
// keeps itself is which job is chosen, in the address.
const $ = (selector) => document.querySelector(selector);
const ENDED = new Set(["done", "failed", "stopped"]);
let state = { jobs: [] };
let chosen = decodeURIComponent(location.hash.slice(1));
let shown = ""; // what the stage shows
let camera;

async function ask(action, options, read = "json") {
  const answer = await fetch(action, options && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(options),
  });
  if (!answer.ok) throw Error((await answer.json()).error);
  return answer[read]();
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const path = (kind, job, version) => `${kind}/${encodeURIComponent(job.name)}?${version}`;
const file = (job, name) => `download/${encodeURIComponent(job.name)}/${encodeURIComponent(name)}`;
const find = () => state.jobs.find((job) => job.name === chosen);

function describe(job) {
  const at = job.step ? `step ${job.step} of ${job.steps}` : "";
  return {
    new: "waiting for its turn",
    running: at ? `${at}${job.left ? `, ${job.left} left` : ""}` : "loading the diffusion model",
    resumable: at ? `${at}, waiting to go on` : "waiting for its turn",
    stopped: at ? `stopped at ${at}` : "stopped",
    failed: "failed",
    done: job.best ? "done, picked as best" : "done",
  }[job.state];
}

async function stage(job) {
  const wanted = !job ? "" : job.model ? path("model", job, job.model)
    : job.preview ? path("preview", job, job.preview) : `text ${job.name} ${job.state}`;
  if (wanted === shown && shown) return;
  const [view, before] = [$("#view"), shown];
  shown = wanted;
  $("#stage").classList.toggle("empty", !job);
  if (!job || wanted.startsWith("text")) {
    $("#bar").hidden = true;
    view.replaceChildren(element("p", { textContent: job ? describe(job) : "Your object will stand here." }));
  } else if (!job.model) {
    $("#bar").hidden = true;
    const image = element("img", { src: wanted, alt: `four views of ${job.prompt}, forming` });
    await image.decode().catch(() => 0);
    if (shown === wanted) view.replaceChildren(image);
  } else {
    try {
      const read = async (file) => new Uint8Array(await ask(file, undefined, "arrayBuffer"));
      const model = await read(wanted);
      const splats = job.splats ? await read(file(job, "splats.ply")) : undefined;
      if (shown !== wanted) return; // another job was chosen meanwhile
      const canvas = element("canvas", { tabIndex: 0, ariaLabel: job.prompt });
      view.replaceChildren(canvas, element("span"));
      $("#bar").replaceWith($("#bar").cloneNode(true)); // without the listeners of the last model
      $("#bar").hidden = false;
      if (before.split("?")[0] !== wanted.split("?")[0]) camera = undefined;
      $("#bar button[data-look='4']").hidden = !splats;
      camera = showModel(canvas, model, camera, splats);
      for (const button of document.querySelectorAll("#bar button"))
        button.setAttribute("aria-pressed", String(Number(button.dataset.look) === camera.look));
      canvas.id = "model";
    } catch (error) {
      view.replaceChildren(element("p", { textContent: error.message }));
      $("#bar").hidden = true;
    }
  }
}

function card(job) {
  const image = element("span", { className: "image" });
  if (job.thumbnail && job.state === "done")
    image.append(element("img", { src: path("thumbnail", job, job.thumbnail), alt: "" }));
  else if (job.preview) image.append(element("img", { src: path("preview", job, job.preview), alt: "" }));
  const made = element("button", { type: "button", className: "card" }, image,
    element("b", { textContent: job.prompt }),
    element("span", { className: job.best ? "good quiet" : "quiet", textContent: `seed ${job.seed}, ${describe(job)}` }));
  made.setAttribute("aria-current", String(job.name === chosen));
  made.addEventListener("click", () => choose(job.name));
  return made;
}

function cards(section, jobs) {
  section.hidden = jobs.length === 0;
  const key = JSON.stringify([jobs, chosen]);
  if (section.dataset.key === key) return;
  section.dataset.key = key;
  section.querySelector(".cards").replaceChildren(...jobs.map(card));
}

function choose(name) {
  chosen = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  $("#exported").textContent = "";
  show();
  if (innerWidth <= 860) $("#stage").scrollIntoView({ behavior: "smooth" });
}

function show() {
  if (!find()) chosen = state.jobs[0]?.name ?? "";
  const job = find();
  document.title = job ? `${job.prompt}: dreamfusion studio` : "dreamfusion studio";
  $("#problem").hidden = !state.problem;
  $("#problem").textContent = state.problem ?? "";
  $("#make").hidden = !state.groups;
  stage(job);
  $("#chosen").hidden = !job;
  if (job) {
    $("#chosen h2").textContent = job.prompt;
    $("#status").textContent = `seed ${job.seed}: ${describe(job)}`;
    $("#chosen progress").hidden = job.state === "done";
    $("#chosen progress").value = job.step / job.steps;
    $("#error").hidden = !job.error || job.state !== "failed";
    $("#error").textContent = job.error ?? "";
    const queue = Boolean(state.groups);
    $("#stop").hidden = !queue || ENDED.has(job.state);
    $("#resume").hidden = !queue || !["stopped", "failed"].includes(job.state);
    $("#resume").textContent = job.state === "failed" ? "Try again" : "Resume";
    $("#pick").hidden = !queue || job.state !== "done" || job.best;
    $("#export").hidden = !job.model;
    fields();
    for (const [id, name] of [["painted", "painted.glb"], ["splats", "splats.ply"]]) {
      $(`#${id}`).hidden = !job[id];
      $(`#${id} a`).href = file(job, name);
    }
  }
  const alike = state.jobs.filter((other) => other.prompt === job?.prompt).sort((a, b) => a.seed - b.seed);
  cards($("#variants"), alike.length > 1 ? alike : []);
  cards($("#gallery"), state.jobs.length > 1 ? state.jobs : []);
}

function words() {
  const list = $("#words div");
  if (list.childElementCount || !state.groups) return;
  for (const [name, nouns] of Object.entries({ ...state.groups, colours: state.colors })) {
    const buttons = nouns.map((noun) => {
      const button = element("button", { type: "button", textContent: noun });
      button.addEventListener("click", () => {
        const object = name === "colours" ? $("#prompt").value.replace(/^an? /i, "") : "";
        $("#prompt").value = `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun} ${object}`.trim();
        check();
      });
      return button;
    });
    list.append(element("p", {}, `${name}: `, ...buttons));
  }
  $("#words").hidden = !list.childElementCount;
}

async function check() {
  const prompt = $("#prompt").value;
  const advice = $("#advice");
  $("#go").disabled = true;
  advice.className = "";
  if (!prompt.trim()) return (advice.textContent = "");
  try {
    const answer = await ask("check", { prompt });
    if (prompt !== $("#prompt").value) return;
    advice.className = answer.reading ? "good" : "";
    advice.textContent = answer.advice ?? `can be made: ${answer.reading}`;
    $("#go").disabled = !answer.reading;
  } catch (error) {
    if (prompt === $("#prompt").value) advice.textContent = error.message;
  }
}

async function refresh() {
  try {
    state = await ask("state");
    words();
    show();
  } catch (error) {
    $("#problem").hidden = false;
    $("#problem").textContent = "The studio does not answer. Is it still running?";
  }
}

// Runs an action of a button; its error is shown next to it.
async function act(action, options, where) {
  try {
    const answer = await ask(action, options);
    await refresh();
    return answer;
  } catch (error) {
    where.hidden = false;
    where.textContent = error.message;
  }
}

let typing;
let mesh = ""; // the uploaded file, by its name in the folder
$("#prompt").addEventListener("input", () => {
  $("#go").disabled = true;
  clearTimeout(typing);
  typing = setTimeout(check, 150);
});
$("#make").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [seeds, steps] = [Number($("#seeds").value) || 1, Number($("#steps").value) || null];
  $("#go").disabled = true;
  const options = { prompt: $("#prompt").value, seeds, steps };
  if (mesh) Object.assign(options, { mesh, up: $("#up").value, front: $("#front").value });
  const answer = await act("make", options, $("#advice"));
  $("#go").disabled = false;
  if (answer) choose(answer.jobs[0]);
});
$("#mesh").addEventListener("change", async () => {
  const [file, said] = [$("#mesh").files[0], $("#uploaded")];
  mesh = "";
  $("#go").textContent = "Make";
  if (!file) return (said.textContent = "It keeps its shape and gets new colours.");
  said.textContent = `reading ${file.name} …`;
  try {
    const answer = await fetch(`upload/${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    const content = await answer.json();
    if (!answer.ok) throw Error(content.error);
    mesh = content.mesh;
    $("#go").textContent = "Paint";
    said.textContent = `${file.name} will be painted`;
  } catch (error) {
    said.textContent = error.message;
  }
});
for (const action of ["stop", "resume", "pick"])
  $(`#${action}`).addEventListener("click", () => act(action, { job: chosen }, $("#error")));

function fields() {
  const print = ["stl-print", "3mf"].includes($("#format").value);
  $("#mm-label").hidden = !print;
  const painted = Boolean(find()?.painted); // with faces and a texture of its own
  $("#faces-label").hidden = print || painted;
  $("#texture-label").hidden = painted || !["glb", "obj", "usdz"].includes($("#format").value);
}
$("#format").addEventListener("change", fields);
fields();
$("#export").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [format, job, said] = [$("#format").value, chosen, $("#exported")];
  const print = ["stl-print", "3mf"].includes(format);
  const number = (id) => Number($(id).value) || null;
  const options = { job, format: format.split("-")[0] };
  if (print) options.mm = number("#mm") ?? 80;
  else Object.assign(options, { faces: $("#faces-label").hidden ? null : number("#faces"), texture: $("#texture-label").hidden ? null : number("#texture") });
  $("#download").disabled = true;
  said.textContent = "making the file …";
  try {
    const { file: name } = await ask("export", options);
    const link = element("a", { href: file({ name: job }, name), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    said.textContent = `downloaded ${name}`;
  } catch (error) {
    said.textContent = error.message;
  }
  $("#download").disabled = false;
});
addEventListener("hashchange", () => { chosen = decodeURIComponent(location.hash.slice(1)); show(); });
refresh();
setInterval(() => document.hidden || refresh(), 1000);
