"""The parts of a report as HTML: each a function of one run, or of several. All text is escaped."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from dreamfusion.config.layers import settings
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.report.curves import COLORS, Series, chart, number
from dreamfusion.report.gather import Curve, Part, Preview, RunReport, Video
from dreamfusion.report.model import MOST_FACES, pack
from dreamfusion.utils.commands import command
from dreamfusion.utils.duration import duration as whole_seconds

# What is known of a metric, in the order in which curves are shown; others follow.
METRICS = {
    "loss": ("Loss", "the sum of all weighted terms"),
    "loss_sds": ("SDS term", "half the mean square of the SDS gradient"),
    "loss_entropy": ("Entropy term", "weighted"),
    "loss_opacity": ("Opacity term", "weighted; threestudio's sparsity"),
    "loss_sparsity": ("Sparsity term", "weighted; SNeRG's"),
    "loss_orientation": ("Orientation term", "weighted, lit steps only"),
    "loss_smoothness": ("Smoothness term", "weighted, lit steps only"),
    "sds_gradient": (
        "SDS gradient",
        "RMS of w(t) (ê − e): how strongly the prior asks for changes",
    ),
    "gradient_norm": ("Gradient norm", "of all parameters, before clipping"),
    "opacity": ("Opacity", "mean over the pictures"),
    "entropy": ("Entropy", "of a pixel's opacity, bits: 0 is solid or empty, 1 the worst"),
    "timesteps": ("Noise level", "mean timestep of a step's views"),
    "guidance": ("Guidance", "scale of classifier-free guidance"),
    "size": ("Picture size", "pixels a side"),
    "seconds": ("Seconds a step", "without previews and checkpoints"),
}
_LOOKS = ("Lit", "Colour", "Clay", "Normals")


def notes(run: RunReport, *parts: Part) -> str:
    """What is missing or broken in these parts, each with the command that mends it."""
    return "".join(
        f'<p class="note">{escape(note.text)}'
        + (f" <code>{escape(note.command)}</code>" if note.command else "")
        + "</p>"
        for note in run.notes
        if note.part in parts
    )


def chips(run: RunReport) -> str:
    """Steps, seed, prior, device, duration and version in a row."""
    state = "done" if run.done else "partial"
    facts = [
        f'<li class="{state}">{run.step} of {run.config.steps} steps</li>',
        _chip("prior", run.config.prior.name),
        _chip("device", f"{run.config.device}, {run.config.prior.dtype}"),
        _chip("seed", str(run.config.seed)),
    ]
    if run.step_seconds:
        facts.append(_chip("trained for", duration(sum(run.step_seconds))))
    if run.version:
        facts.append(_chip("dreamfusion", run.version))
    return f'<ul class="chips">{"".join(facts)}</ul>'


def viewer(run: RunReport, identity: str) -> str:
    """The mesh, to be turned and zoomed, and its data beside it."""
    if run.model is None:
        return notes(run, "mesh")
    if len(run.model.faces) > MOST_FACES:
        count = f"{len(run.model.faces):,}"
        return f'<p class="note">The mesh has {count} faces, too many for a page.</p>'
    data = json.dumps(pack(run.model)).replace("<", "\\u003c")
    buttons = "".join(
        f'<button data-look="{i}" aria-pressed="{"false" if i else "true"}">{look}</button>'
        for i, look in enumerate(_LOOKS)
    )
    return (
        f'<div class="viewer"><canvas data-model="{identity}" tabindex="0" role="img" '
        f'aria-label="The mesh of {escape(run.config.prompt)}; arrow keys turn it, + and − zoom">'
        f'</canvas><div class="looks">{buttons}</div>'
        '<p class="hint">drag to turn, wheel or pinch to zoom</p></div>'
        f'<script type="application/json" id="{identity}">{data}</script>'
    )


def videos(run: RunReport, which: Sequence[Video]) -> str:
    """Videos that play by themselves, over and over."""
    return "".join(
        f'<figure class="video"><video controls loop muted autoplay playsinline '
        f'src="{data_uri("video/mp4", video.data)}"></video>'
        f"<figcaption>{escape(video.title)}</figcaption></figure>"
        for video in which
    )


def checks(run: RunReport) -> str:
    """What trimesh finds of the mesh."""
    if run.model is None:
        return ""
    pairs = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in run.model.checks
    )
    return f'<dl class="facts">{pairs}</dl>'


JUDGED = {
    "r1_color": "R@1, color", "r1_shaded": "R@1, shaded", "r1_geometry": "R@1, geometry",
    "margin": "Margin", "worst_margin": "Margin, worst view", "rank": "Rank", "fronts": "Fronts",
}  # fmt: skip


def judged_facts(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A judge's figures, by name, as they are printed; those that there are."""
    found = []
    for key, name in JUDGED.items():
        value = judged.get(key)
        if isinstance(value, (int, float)):
            shown = f"{value:.0%}" if key.startswith("r1") else f"{value:.3g}"
            found.append((name, shown))
    return found


def judgement(run: RunReport) -> str:
    """What `dreamfusion evaluate` found."""
    if not run.judged:
        return ""
    pairs = "".join(
        f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
        for name, text in judged_facts(run.judged)
    )
    why = run.judged.get("reason")
    note = f'<p class="note">{escape(str(why))}</p>' if why else ""
    return f'<dl class="facts">{pairs}</dl>{note}'


def timings(run: RunReport) -> str:
    """How long steps took, and all of them; and each stage of the process that finished the run."""
    seconds = run.step_seconds
    if not seconds:
        return ""
    stages = [(s.capitalize(), duration(took)) for s, took in run.stages.items()]
    pairs = [
        ("All steps", duration(sum(seconds))),
        ("A step, median", f"{number(statistics.median(seconds))} s"),
        ("A step, at worst", f"{number(max(seconds))} s"),
        ("First step", f"{number(seconds[0])} s"),
        *stages,
    ]
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{cells}</dl>'


def previews(shown: Iterable[Preview]) -> str:
    """Rows of views, oldest first."""
    figures = "".join(
        f'<figure><img src="{data_uri("image/png", one.data)}" width="{one.width}" '
        f'height="{one.height}" alt="views at step {one.step}">'
        f"<figcaption>step {one.step}</figcaption></figure>"
        for one in shown
    )
    return f'<div class="previews">{figures}</div>' if figures else ""


def curves(runs: Sequence[RunReport]) -> str:
    """A chart for every metric that changes, all runs in it, and a line on those that do not."""
    known = {name for run in runs for name in run.curves}
    names = [name for name in METRICS if name in known] + sorted(known - set(METRICS))
    charts, constant = [], []
    for name in names:
        found = [(i, run, run.curves[name]) for i, run in enumerate(runs) if name in run.curves]
        title, caption = METRICS.get(name, (name, ""))
        values = {value for _, _, curve in found for value in curve.values}
        if len(values) == 1:
            constant.append(f"{escape(title)} {number(values.pop())}")
            continue
        series = [_series(i, run, curve) for i, run, curve in found]
        charts.append(
            f'<figure class="curve"><figcaption><b>{escape(title)}</b> {escape(caption)}'
            f"</figcaption>{chart(series, title)}</figure>"
        )
    same = f'<p class="quiet">Always the same: {", ".join(constant)}.</p>' if constant else ""
    return f'<div class="curves">{"".join(charts)}</div>{same}' if charts or same else ""


def own_settings(run: RunReport) -> str:
    """The settings that differ from the defaults and where they come from; below, folded, all
    others."""
    defaults = {name: value for name, value, _ in settings(Config())}
    rows: dict[bool, list[str]] = {True: [], False: []}
    for name, value, doc in settings(run.config):
        differs = value != defaults.get(name)
        default = ""
        if differs:
            source = escape(run.sources.get(name, ""))
            default = f"<td><code>{_value(defaults.get(name, ''))}</code></td><td>{source}</td>"
        rows[differs].append(
            f"<tr><th>{escape(name)}</th><td><code>{_value(value)}</code></td>{default}"
            f'<td class="doc">{escape(doc)}</td></tr>'
        )
    changed = (
        '<div class="scroll"><table><thead><tr><th>differs from the default</th><td>value</td>'
        f"<td>default</td><td>from</td><td></td></tr></thead>{''.join(rows[True])}</table></div>"
    )
    return (
        (changed if rows[True] else "<p>All settings are the defaults.</p>")
        + f"<details><summary>The other {len(rows[False])} settings, at their defaults</summary>"
        + f'<div class="scroll"><table>{"".join(rows[False])}</table></div></details>'
    )


def compared_settings(runs: Sequence[RunReport]) -> str:
    """The settings in which runs differ, a column for each, and below, folded, all others."""
    defaults = {name: value for name, value, _ in settings(Config())}
    each = [{name: value for name, value, _ in settings(run.config)} for run in runs]
    head = "".join(f"<td>{dot(i)}{escape(run.name)}</td>" for i, run in enumerate(runs))
    rows: dict[bool, list[str]] = {True: [], False: []}
    for name in dict.fromkeys(name for one in (defaults, *each) for name in one):
        # An estimator or a scene of another kind has other settings.
        default, values = defaults.get(name, ""), [one.get(name, "") for one in each]
        cells = "".join(
            f"<td{'' if value == default else ' class=changed'}><code>{_value(value)}</code></td>"
            for value in values
        )
        rows[any(value != values[0] for value in values)].append(
            f"<tr><th>{escape(name)}</th>{cells}</tr>"
        )
    tables = {
        differ: f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"{''.join(found)}</table></div>"
        for differ, found in rows.items()
    }
    return (
        (tables[True] if rows[True] else "<p>The runs have the same settings.</p>")
        + f"<details><summary>The {len(rows[False])} settings that are the same; marked: not the "
        + f"default</summary>{tables[False]}</details>"
    )


def again(run: RunReport) -> str:
    """The command that makes a run with the same settings."""
    return command("train", run.config.prompt, "--config", run.path / "config.yaml")


def dot(i: int) -> str:
    """The mark in a run's colour."""
    return f'<i class="dot" style="background:var(--s{i % COLORS})"></i>'


def duration(seconds: float) -> str:
    """As the console says it, but to a tenth where it is short: "8.1 s"."""
    return f"{seconds:.2g} s" if seconds < 10 else whole_seconds(seconds)


def data_uri(kind: str, data: bytes) -> str:
    """The bytes as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _chip(name: str, value: str) -> str:
    return f"<li><span>{escape(name)}</span> {escape(value)}</li>"


def _series(i: int, run: RunReport, curve: Curve) -> Series:
    return Series(run.name, i, curve.steps, curve.values)


def _value(value: Any) -> str:
    """A setting as --set takes it, or a schedule as start → end."""
    if isinstance(value, Schedule):
        if value.is_constant:
            return number(value.start)
        unit = "" if value.unit == "fraction" else " steps"
        when = f" ({value.begin:g}–{value.finish:g}{unit})"
        whole = (value.begin, value.finish, value.unit) == (0.0, 1.0, "fraction")
        return f"{value.start:g} → {value.end:g}{'' if whole else when}"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{part:g}' for part in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return escape(str(value)) or "&nbsp;"
