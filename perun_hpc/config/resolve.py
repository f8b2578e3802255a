"""From the compiled policy to the settings of one job: site, partition, nodes, account, user, each bounded by the last.

The agent uses this: standard library only, and a compiled policy is trusted (it was checked when it was compiled).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perun_hpc.config.kinds import Choice, lower_case
from perun_hpc.config.schema import (
    FIELDS,
    SECTIONS,
    Agent,
    Bound,
    Budget,
    Collect,
    Energy,
    Facility,
    Field,
    Footprint,
    Hooks,
    Layer,
    Metrics,
    Monitor,
    Privacy,
    Sampling,
    Sensors,
    Store,
)
from perun_hpc.slurm import hostlist

JOB_SECTIONS = ("monitor", "sampling", "sensors", "energy", "store", "privacy")
"""What is stored with a job's record, so that an old record knows what ruled it."""

MAX_OPTIONS = 16
"""Further options of one flag are not looked at."""
MAX_NOTES = 32
"""Further refusals of a job's flags are not kept: every step may come with other ones."""


@dataclass(frozen=True)
class JobFacts:
    """What decides the settings of a job on a node; empty facts give the site's settings.

    `options` is the text of the user's flag: "" for plain `--perun`, None without it.
    """

    partition: str = ""
    node: str = ""
    account: str = ""
    user: str = ""
    options: str | None = None


@dataclass(frozen=True)
class JobSettings:
    """The settings of one job on one node; for empty facts those of a node or of the site.

    `origins` holds for each `section.attribute` where its value was decided: `FILE:LINE` or `default`.
    `notes` says, one line each, which wishes of the user were bounded or refused.
    """

    monitor: Monitor
    sampling: Sampling
    sensors: Sensors
    energy: Energy
    agent: Agent
    hooks: Hooks
    store: Store
    collect: Collect
    footprint: Footprint
    facility: Facility
    privacy: Privacy
    budget: Budget
    metrics: Metrics
    policy_hash: str
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def monitors(self, flagged: bool) -> bool:
        """Whether the job leaves a record; `flagged`: it, or one of its steps, was submitted with `--perun`."""
        return monitors(self.monitor.jobs, flagged)

    def to_json(self) -> dict[str, Any]:
        """The sections that rule a job, with their origins, to be stored with its record."""
        values = {name: dict(vars(getattr(self, name))) for name in JOB_SECTIONS}
        kept = {key: origin for key, origin in self.origins.items() if key.split(".")[0] in JOB_SECTIONS}
        return {**values, "origins": kept, "notes": list(self.notes)}


def resolve(policy: Mapping[str, Any], job: JobFacts) -> JobSettings:
    """The settings of a job under a policy; never fails on what a user wrote.

    Parameters
    ----------
    policy : as `python -m perun_hpc.config.compile` writes it.
    job : what is known of the job: partition, node, user, account, options.

    Returns
    -------
    The settings, with the origin of each and notes on options that do not count.
    """
    values: dict[str, dict[str, Any]] = {
        section: {item.name: item.default for item in dataclasses.fields(cls)} for section, cls in SECTIONS.items()
    }
    origins = dict.fromkeys(FIELDS, "default")
    for layer, entry in _layers(policy, job):
        _apply(values, origins, layer, entry)
    _restrict(values["monitor"], origins, job)
    notes = _apply_options(values, origins, job.options or "")
    return JobSettings(
        **{section: cls(**values[section]) for section, cls in SECTIONS.items()},
        policy_hash=str(policy.get("hash", "")),
        origins=origins,
        notes=tuple(notes),
    )


def monitors(jobs: str, flagged: bool) -> bool:
    """Whether a job under `monitor.jobs` leaves a record."""
    return jobs in ("all", "opt-out") or (jobs == "opt-in" and flagged)


def with_options(frozen: Mapping[str, Any], options: str) -> dict[str, Any]:
    """What `to_json` gave at the job's start, with a flagged step's options: whatever the policy says by now."""
    values = {
        name: {**{item.name: item.default for item in dataclasses.fields(SECTIONS[name])}, **frozen.get(name, {})}
        for name in JOB_SECTIONS
    }
    origins = {**dict.fromkeys(FIELDS, "default"), **frozen.get("origins", {})}
    notes = [*frozen.get("notes", ()), *_apply_options(values, origins, options)]
    kept = {key: origin for key, origin in origins.items() if key.split(".")[0] in JOB_SECTIONS}
    return {**values, "origins": kept, "notes": list(dict.fromkeys(notes))[:MAX_NOTES]}


def bounded(field: Field, above: Any, wanted: Any, section: Mapping[str, Any]) -> Any:
    """`wanted`, pulled into what `above` (the value in force) and its `section` allow."""
    if field.bound is Bound.BETWEEN:
        name, suffix = field.name, field.kind.suffix
        return max(section[f"{name}_min{suffix}"], min(section[f"{name}_max{suffix}"], wanted))
    if field.bound is Bound.RISE:
        return max(above, wanted)
    if field.bound is Bound.FALL:
        return min(above, wanted)
    if field.bound is Bound.LESS:
        assert isinstance(field.kind, Choice)
        return max(above, wanted, key=field.kind.words.index)
    if field.bound is Bound.SUBSET:
        return tuple(entry for entry in wanted if entry in above)
    return wanted


def _layers(policy: Mapping[str, Any], job: JobFacts) -> Iterator[tuple[Layer, Mapping[str, Any]]]:
    yield Layer.SITE, policy.get("site", {})
    if job.partition in policy.get("partitions", {}):
        yield Layer.PARTITION, policy["partitions"][job.partition]
    for names, entry in policy.get("nodes", {}).items():
        if job.node and job.node in hostlist.expand(names):
            yield Layer.NODE, entry
    account = lower_case(job.account)
    if account in policy.get("accounts", {}):
        yield Layer.ACCOUNT, policy["accounts"][account]


def _apply(values: dict[str, dict[str, Any]], origins: dict[str, str], layer: Layer, entry: Mapping[str, Any]) -> None:
    """Put the values of one layer over those in force; limits before what they limit; unknown fields are skipped."""
    wanted = [(FIELDS[key], value) for key, value in entry.get("values", {}).items() if key in FIELDS]
    for field, raw in sorted(wanted, key=lambda pair: pair[0].bound is Bound.BETWEEN):
        section = values[field.section]
        value = tuple(raw) if isinstance(raw, list) else raw
        origin = entry["origins"].get(field.key, "default")
        allowed = value if layer is Layer.SITE else bounded(field, section[field.attribute], value, section)
        section[field.attribute] = allowed
        origins[field.key] = origin if allowed == value else f"{origin}, bounded by {origins[field.key]}"
    for field in FIELDS.values():
        # A limit that moved pulls along what an outer layer had set.
        if field.bound is Bound.BETWEEN:
            section = values[field.section]
            now = section[field.attribute]
            allowed = bounded(field, now, now, section)
            if allowed != now:
                section[field.attribute] = allowed
                side = "min" if allowed > now else "max"
                origins[field.key] = origins[f"{field.path}_{side}{field.kind.suffix}"]


def _restrict(monitor: dict[str, Any], origins: dict[str, str], job: JobFacts) -> None:
    """Switch measuring off for a job outside the listed partitions, accounts or canary nodes."""
    outside = (
        ("partitions", job.partition and monitor["partitions"] and job.partition not in monitor["partitions"]),
        ("accounts", job.account and monitor["accounts"] and lower_case(job.account) not in monitor["accounts"]),
        ("canaries", job.node and monitor["canaries"] and job.node not in hostlist.expand(monitor["canaries"])),
    )
    for name, is_outside in outside:
        if is_outside:
            monitor["jobs"] = "none"
            origins["monitor.jobs"] = origins[f"monitor.{name}"]


def _apply_options(values: dict[str, dict[str, Any]], origins: dict[str, str], options: str) -> list[str]:
    """Apply the user's flag, as far as the policy lets it; returns what was refused or bounded."""
    notes: list[str] = []
    for word in options.split(",", MAX_OPTIONS)[:MAX_OPTIONS]:
        name, _, text = word.strip().partition("=")
        if not name:
            continue
        if name not in values["monitor"]["user_options"]:
            notes.append(f"--perun: the site does not allow the option '{name[:40]}': ignored")
        elif name == "off":
            notes.extend(_apply_off(values["monitor"], origins))
        elif name == "notrace":
            values["store"]["trace"] = "none"
            origins["store.trace"] = "--perun=notrace"
        elif name == "period":
            notes.extend(_apply_period(values["sampling"], origins, text))
    return notes


def _apply_off(monitor: dict[str, Any], origins: dict[str, str]) -> list[str]:
    if monitor["jobs"] == "all":
        return ["--perun: option 'off' has no effect: the site measures all jobs"]
    monitor["jobs"] = "none"
    origins["monitor.jobs"] = "--perun=off"
    return []


def _apply_period(sampling: dict[str, Any], origins: dict[str, str], text: str) -> list[str]:
    field = FIELDS["sampling.period_ns"]
    try:
        wanted = field.kind.parse(text)
    except ValueError as error:
        return [f"--perun: period '{text[:40]}' is not understood: expected {error}: ignored"]
    sampling["period_ns"] = bounded(field, sampling["period_ns"], wanted, sampling)
    origins["sampling.period_ns"] = "--perun=period"
    if sampling["period_ns"] == wanted:
        return []
    return [f"--perun: period {text[:40]} exceeds the site's limits: {field.kind.show(sampling['period_ns'])} is used"]
