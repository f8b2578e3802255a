"""Which jobs are held against each other: those that a user names, or the last ones of a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perun_hpc.accounting.found import UNKNOWN, Found, Places
from perun_hpc.accounting.lookup import find_each
from perun_hpc.accounting.selection import LAST, NAMELESS, WEEK_S, own_jobs
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.energy.comparison import spread
from perun_hpc.errors import NotFoundError, PerunError, UsageError
from perun_hpc.report.comparison import Side, Sides, sentence, sides_of
from perun_hpc.report.subjects import Subject, of_records
from perun_hpc.slurm.job_ids import expand_ids

EARLIER = 5
"""So many runs of a name are looked at."""


@dataclass(frozen=True)
class Asker:
    """Who asks, and when (epoch seconds): `last` and names are of the own jobs."""

    uid: int
    now_s: float


def of_words(words: Sequence[str], places: Places, asker: Asker) -> list[Side]:
    """A side of each word: `4711`, repeats as `4711,4712` or `100-105`, `last`.

    Raises
    ------
    NotFoundError
        For a job that the caller does not see, and for one whose energy cannot be compared.
    """
    named = [expand_ids([own_jobs(places, *_of(asker))[0] if word == LAST else word])[0] for word in words]
    if not all(named):
        raise UsageError("an empty word names no job")
    ids = [job for some in named for job in some]
    found = find_each(ids, places)
    sides = []
    for some in named:
        subjects = [_subject(job, found[job]) for job in some]
        for subject in subjects:
            if subject.why:
                text = f"{subject.label} cannot be compared: {subject.why}: see perun report {subject.label}"
                raise NotFoundError(text)
        label = subjects[0].label + (f" +{len(subjects) - 1}" if len(subjects) > 1 else "")
        sides.append(Side(label, tuple(subjects)))
    return sides


def of_name(name: str, places: Places, asker: Asker, most: int, without: Sequence[str] = ()) -> Side:
    """The last own runs of a name as repeats, the newest first: as large as the newest, and with a whole energy.

    Raises
    ------
    NotFoundError
        Where there is none.
    """
    ids = own_jobs(places, *_of(asker), name, least=most)
    subjects = _alike([job for job in ids if job not in without], places, most)
    if not subjects:
        raise NotFoundError(f"no job of yours named '{name}' has ended with an energy that can be compared")
    return Side(name, tuple(subjects))


def newest_and_before(name: str, places: Places, asker: Asker, most: int) -> list[Side]:
    """The last own run of a name, after those before it.

    Raises
    ------
    NotFoundError
        Where there are not two of one size.
    """
    newest, *before = of_name(name, places, asker, most + 1).subjects
    if not before:
        raise NotFoundError(f"{newest.label} is the only job of yours named '{name}' of its size that can be compared")
    return [Side(_before(before), tuple(before)), Side(newest.label, (newest,))]


def with_earlier_spread(found: Sides, places: Places, asker: Asker) -> Sides:
    """One run of each side: with the spread that the caller's other runs of their name and size showed in a week."""
    subjects = [subject for side in found.sides for subject in side.subjects]
    name = subjects[0].name
    if len(subjects) > len(found.sides) or name in NAMELESS or any(one.name != name for one in subjects):
        return found
    named = {one.label for one in subjects}
    try:
        ids = own_jobs(places, asker.uid, asker.now_s, name, spans_s=(WEEK_S,))
        others = _alike([job for job in ids if job not in named], places, EARLIER, subjects[0])
    except PerunError:  # the comparison stands without it
        return found
    runs = [one.run(found.components) for one in others if all(map(one.counts, found.components))]
    return replace(found, known=spread([run.energy_j for run in runs]))


def beside_these(record: EnergyRecord, ids: Sequence[str], places: Places, sign: str) -> str:
    """A job beside those of `ids` that can be compared and have its size, in a sentence; empty where there are none.

    `sign` stands before a bound.
    """
    subject = of_records([record])
    if subject.why:
        return ""
    try:
        before = _alike(ids, places, EARLIER, subject)
    except PerunError:  # the report stands without it
        return ""
    found = sides_of([Side(_before(before), tuple(before)), Side(subject.label, (subject,))])
    if not before or not found.components:
        return ""
    what = "the one before of this name" if len(before) == 1 else f"the {len(before)} before of this name"
    return sentence(found, what, sign)


def _of(asker: Asker) -> tuple[int, float]:
    return asker.uid, asker.now_s


def _before(before: Sequence[Subject]) -> str:
    return f"{count(len(before), 'run')} before"


def _subject(job: str, runs: Sequence[Found]) -> Subject:
    """What an id names; of a requeued job the last run."""
    if not runs:
        raise NotFoundError(f"job {job}: {UNKNOWN}")
    return of_records(list({f.record.job_id: f.record for f in runs}.values()))


def _alike(ids: Sequence[str], places: Places, most: int, like: Subject | None = None) -> list[Subject]:
    """The first `most` of these jobs that can be compared, of the size of the first of them, or of `like`."""
    kept: list[Subject] = []
    for start in range(0, min(len(ids), 4 * most), most):
        some = ids[start : start + most]
        found = find_each(some, places)
        for job in some:
            subject = _subject(job, found[job]) if found[job] else None
            if subject is None or subject.why:
                continue
            like = like or subject
            if (subject.nodes, subject.cpus, subject.gpus) == (like.nodes, like.cpus, like.gpus):
                kept.append(subject)
        if len(kept) >= most:
            break
    return kept[:most]
