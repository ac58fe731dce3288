"""table.md: what an evaluation says, in the layout of the papers and with their figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.benchmark import machine, source_commit
from SOPIRegistrationLib.evaluation.metrics import (
    FAILURE_ROTATION_DEG,
    FAILURE_TRANSLATION_MM,
    RIGHT_IN_PLANE_MM,
    RIGHT_ROTATION_DEG,
    SUCCESS_MTRE_MM,
)
from SOPIRegistrationLib.evaluation.paper_tables import (
    assisted_table,
    axes_table,
    means_table,
    medians_table,
    similarity_table,
    sums_table,
    table_1,
    table_2,
    table_3,
)
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.series import Series
from SOPIRegistrationLib.evaluation.simulated import STRANGERS
from SOPIRegistrationLib.evaluation.targets import PHOTONS, TARGETS
from SOPIRegistrationLib.evaluation.verdict_tables import (
    Limits,
    predicted_table,
    reliability_table,
    seconds_table,
    summary_table,
    verdicts_table,
)

# Sections that a configuration may choose.
SECTIONS = {
    "summary": "a line for each group and method",
    "papers": "the layouts of the SOPI paper, with its figures",
    "medians": "medians of all errors",
    "axes": "means of the errors about and along each axis",
    "sums": "sums of absolute errors, as the SOPI reference code reports them",
    "verdicts": "what is accepted, and by what right and wrong poses differ",
    "reliability": "how often poses of some probability are right",
    "predicted": "predicted against actual errors",
    "seconds": "the first registration of a process, and a later one",
    "assisted": "what choosing by the truth would report: no result",
}
# Sections that are one table of all groups, with their headings.
_OF_ALL = {
    "verdicts": ("Verdicts", verdicts_table),
    "reliability": ("Probabilities", reliability_table),
    "predicted": ("Predicted errors", predicted_table),
    "seconds": ("Seconds, the first registration of a process and a later one", seconds_table),
}
OF_SEVERAL = ("summary", "verdicts", "reliability", "predicted", "seconds")


def table(
    series: Sequence[Series],
    settings: dict,
    title: str = "Evaluation",
    chosen: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> str:
    """The report as Markdown.

    Conditions; the chosen sections; what the methods are; errors; last what is no result.

    Args:
        series: the rows, by group and method.
        settings: of the evaluation; those of each group under "groups", or of the only one among the others.
        title: heading.
        chosen: names in ``SECTIONS``; if empty, of one group all that fit, of several ``OF_SEVERAL``.
        within: by group, the limits that its errors are counted against.
    """
    groups = {one.group: [other for other in series if other.group == one.group] for one in series}
    known = {name: _of_group(settings, name) for name in groups}
    chosen = chosen or (SECTIONS if len(groups) < 2 else OF_SEVERAL)
    sections = {"": _conditions(series, settings, known)}
    if "summary" in chosen and (len(groups) > 1 or len(chosen) < len(SECTIONS)):
        sections["Summary"] = summary_table(series, within or {})
    for name, own in groups.items():
        made = _sections_of_group(own, known[name], chosen)
        sections |= {_titled(heading, name): lines for heading, lines in made.items()}
    sections |= {heading: make(series) for name, (heading, make) in _OF_ALL.items() if name in chosen}
    methods = {one.name: one for one in series}.values()
    sections["Methods"] = [f"- {one.label} (`{one.name}`): {one.summary}" for one in methods]
    sections["Errors"] = _errors(series)
    if "assisted" in chosen:
        heading = "No result: what choosing by the truth would report"
        sections |= {_titled(heading, name): assisted_table(own) for name, own in groups.items()}
    lines = [f"# {title}"]
    for heading, content in sections.items():
        if content:
            lines += ["", *([f"## {heading}", ""] if heading else []), *content]
    return "\n".join(lines) + "\n"


def _titled(heading: str, group: str) -> str:
    return f"{heading}: {group}" if group else heading


def _errors(series: Sequence[Series]) -> list[str]:
    return [
        f"- {row['group']}{', ' if row['group'] else ''}case {row['case']}, `{row['method']}`: {row['error']}"
        for one in series
        for row in one.rows
        if row["error"]
    ]


def _of_group(settings: dict, name: str) -> dict:
    """The settings of a group and those of all."""
    return settings | settings.get("groups", {}).get(name, {})


def _sections_of_group(series: Sequence[Series], settings: dict, chosen: Sequence[str]) -> dict[str, list]:
    """The sections that are of one group each."""
    sections = {}
    has_truth = any(one.has_truth for one in series)
    if "papers" in chosen:
        if not has_truth:
            sections["Without truth"] = similarity_table(series)
        elif "target" in settings:
            sections["Simulated X-rays, as in Table 1 of the SOPI paper"] = table_1(series, settings)
            if any(one.name in published.TABLE_2 for one in series):
                sections["Ablation, as in Table 2 of the SOPI paper"] = table_2(series, settings)
        else:
            sections["Real X-rays, as in Table 3 of the SOPI paper"] = table_3(series)
            sections["Means"] = means_table(series)
    if has_truth and "medians" in chosen:
        sections["Medians"] = medians_table(series)
    if has_truth and "axes" in chosen:
        sections["Means of absolute errors, axis by axis"] = axes_table(series)
    if has_truth and "sums" in chosen:
        sections["Sums of absolute errors over the three axes"] = sums_table(series)
    return sections


def _conditions(series: Sequence[Series], settings: dict, groups: Mapping[str, dict]) -> list[str]:
    computer, commit = machine(), source_commit()
    devices: dict[str, list[str]] = {}
    for one in series:
        for device in sorted({row["device"] for row in one.solved if row["device"]}):
            devices.setdefault(device, []).append(one.label)
    where = next(iter(devices), "nothing")
    if len(devices) > 1:
        where = "; on ".join(
            f"{device}: {', '.join(dict.fromkeys(labels))}" for device, labels in devices.items()
        )
    workers = sorted({row["workers"] for one in series for row in one.rows})
    concurrent = "one at a time" if workers == ["1"] else f"{' or '.join(workers)} processes at a time"
    what = []
    for name, known in groups.items():
        lines = _cases_of(known)
        what += [f"- **{name}**: {'; '.join(lines)}"] if name else [f"- {line}" for line in lines]
    return [
        f"{date.today().isoformat()}, version {settings['version']}{f' ({commit})' if commit else ''}, "
        f"seed {settings['seed']}.",
        "",
        *what,
        f"- registrations on {where}, {concurrent}, limit {settings['timeout_s']:g} s; seconds from prepared "
        f"images to the pose; baselines compare images of {settings['baseline_pixels']} pixels",
        f"- {settings['processor']}; {computer['system']}; {computer['versions']}",
        f"- right: at most {RIGHT_IN_PLANE_MM:g} mm off in the plane, at the object, and "
        f"{RIGHT_ROTATION_DEG:g} deg; failure: rotation above "
        f"{FAILURE_ROTATION_DEG:g} deg (geodesic) or translation above "
        f"{FAILURE_TRANSLATION_MM:g} mm (Euclidean, of the rotation centre); success: mTRE over points of "
        f"the bone surface at most {SUCCESS_MTRE_MM:g} mm. A case that ended with an error has failed.",
        "- in brackets: 95 % intervals (rates: Wilson; means and medians: bootstrap)",
    ]


def _start_along(settings: dict) -> str:
    along = settings.get("start_along_mm", 0)
    return f"; the start slid by {along:g} mm towards the head" if along else ""


def _cases_of(settings: dict) -> list[str]:
    """What the cases of a group are."""
    if "bent" in settings:
        of = (
            settings["of"]
            if isinstance(settings["of"], str)
            else ", ".join(name.rsplit(" ", 1)[0] for name in settings["of"])
        )
        return [
            f"bones of {of}, each turned by up to {settings['turn_deg']:g} deg (12 in all) and shifted by up "
            f"to {settings['shift_mm']:g} mm against the one before, X-rayed by RTK with {PHOTONS:.0e} "
            f"photons a pixel and a random intensity curve; {settings['views']} view(s) of "
            f"{settings['pixels']} x {settings['pixels']} pixels; seconds are those of all bones of an X-ray "
            f"together{_start_along(settings)}"
        ]
    if "target" not in settings:
        starts = f", starts of each about its truth: {settings['starts']}" if "starts" in settings else ""
        return [f"cases of {settings['cases']}{starts}"]
    of = settings.get("cts") or f"{settings['phantoms']} lumbar phantoms"
    of = of if isinstance(of, str) else ", ".join(name.rsplit(" ", 1)[0] for name in of)
    only = "; everything but bone removed from both" if settings["content"] == "bone" else ""
    if settings.get("scan_height_mm"):
        only += f"; registered are the slices within {settings['scan_height_mm']:g} mm about its middle"
    lines = [
        f"protocol `{settings['protocol']}`: {PROTOCOLS[settings['protocol']].summary}",
        f"targets `{settings['target']}`: {TARGETS[settings['target']]}",
        f"CT and X-rays of {of}, view {settings['view']}, {settings['pixels']} x {settings['pixels']} "
        f"pixels{only}",
    ]
    if settings.get("stranger"):
        lines.append(f"{STRANGERS[settings['stranger']]}: no pose is right")
    return lines
