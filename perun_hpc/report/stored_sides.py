"""Which stored runs are held against each other: those that a user names, or the last ones of an application."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from perun_hpc.data_model.data import DataNode
from perun_hpc.data_model.wording import count
from perun_hpc.errors import NotFoundError
from perun_hpc.monitoring import runs
from perun_hpc.report.comparison import Side
from perun_hpc.report.stored import of_tree


def of_words(words: Sequence[str], data_out: Path) -> list[Side]:
    """A side of each word: an id or a directory, repeats joined by commas; each round of a run is a repeat.

    Raises
    ------
    NotFoundError
        For a run that is not there, and for one whose energy cannot be compared.
    """
    sides = []
    for word in words:
        trees = [_tree(one, data_out) for one in word.split(",") if one]
        subjects = [subject for tree in trees for subject in of_tree(tree)]
        if not subjects:
            raise NotFoundError(f"'{word}' has no round that was measured")
        for subject in subjects:
            if subject.why:
                raise NotFoundError(f"{subject.label} cannot be compared: {subject.why}")
        label = trees[0].id + (f" +{len(trees) - 1}" if len(trees) > 1 else "")
        sides.append(Side(label, tuple(subjects)))
    return sides


def of_app(app: str, data_out: Path, most: int, without: Collection[str] = ()) -> Side:
    """The last runs of an application as repeats, the newest first, but for those that are named on their own.

    Raises
    ------
    NotFoundError
        Where there is none that can be compared.
    """
    found = _last(app, data_out, most, without)
    return Side(app, tuple(subject for tree in found for subject in of_tree(tree)))


def newest_and_before(app: str, data_out: Path, most: int) -> list[Side]:
    """The last run of an application, after those before it.

    Raises
    ------
    NotFoundError
        Where there are not two.
    """
    newest, *before = _last(app, data_out, most + 1)
    if not before:
        raise NotFoundError(f"{newest.id} is the only run of {app} in {data_out} that can be compared")
    earlier = tuple(subject for tree in before for subject in of_tree(tree))
    return [Side(f"{count(len(before), 'run')} before", earlier), Side(newest.id, tuple(of_tree(newest)))]


def _last(app: str, data_out: Path, most: int, without: Collection[str] = ()) -> list[DataNode]:
    kept: list[DataNode] = []
    for _, tree in runs.stored(data_out, app):
        subjects = of_tree(tree)
        if subjects and not any(subject.why or subject.label in without for subject in subjects):
            kept.append(tree)
        if len(kept) >= most:
            return kept
    if not kept:
        raise NotFoundError(f"no run of {app} in {data_out} can be compared: check --data-out")
    return kept


def _tree(word: str, data_out: Path) -> DataNode:
    there = Path(word)
    tree = runs.at(there) if there.is_dir() else None
    return tree if tree is not None else runs.find(data_out, None, word)[1]
