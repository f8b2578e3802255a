"""Creating a job store: any number of nodes may do it at once, the first one's plan holds for all."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec, layout
from perun_hpc.store.layout import Array, Json, Mark, Plan, Track

DIRECTORY_MODE = 0o750


def agree(job_dir: Path, plan: Plan) -> Plan:
    """The plan that holds for this job run: the one in `job_dir`, or ours if none was there."""
    path = job_dir / layout.PLAN
    if not path.exists():
        make_directory(job_dir)
        files.write_first(path, plan.to_json())
    return read_plan(job_dir)


def read_plan(job_dir: Path) -> Plan:
    """The plan in `job_dir`; DataError where it is missing or damaged."""
    path = job_dir / layout.PLAN
    try:
        return Plan.from_json(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise no_trace(job_dir) from error


def no_trace(job_dir: Path) -> DataError:
    """What there is to say where `job_dir` has no plan."""
    return DataError(f"{job_dir / layout.PLAN}: no trace was stored here")


def tracks(job_dir: Path, plan: Plan) -> list[Track]:
    """All tracks of the store, the root first; DataError where a description is damaged."""
    return [read_track(path, plan) for path in sorted(job_dir.glob("track*.json"), key=lambda path: path.stem)]


def read_track(path: Path, plan: Plan) -> Track:
    """The track that a file describes; DataError where it is damaged."""
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged; run perun collect --repair") from error
    return Track.from_description(plan, description, str(path))


def place(job_dir: Path, plan: Plan, period_ns: int, parts: tuple[Array, ...]) -> Track:
    """The track that these arrays are in this store, created where it does not exist yet.

    A group belongs to the first hardware that comes; other hardware has its signature in the group's name.
    """
    signature = layout.signature(parts)
    make_directory(job_dir / layout.MARKS)
    for group in plan.groups(period_ns, signature):
        track = Track(plan, period_ns, parts, group)
        path = job_dir / track.file
        if not path.exists():
            files.write_first(path, encode(track.description()))
        if layout.signature(read_track(path, plan).parts) == signature:
            break
    complete(job_dir, track)
    return track


def complete(job_dir: Path, track: Track) -> None:
    """Write the metadata of a track that are missing; the time axis comes last, so where it is, everything is."""
    store = job_dir / layout.STORE
    group = store / track.group
    if (group / "time" / "zarr.json").exists():
        return
    documents = track.documents(layout.shard_rows(track.period_ns), {"state": "open"})
    for name, data in coordinate_chunks(track).items():
        _write_first(group / name, data)
    _write_first(group / "time" / layout.chunk_key(0), time_chunk(track, 0))
    own, time = documents.pop(""), documents.pop("time")
    for name, document in documents.items():
        _write_first(group / name / "zarr.json", encode(document))
    everything = track.within({**documents, "time": time})
    if track.group:
        _write_first(group / "zarr.json", encode(own))
        root = layout.group_document({**track.plan.attributes, "state": "open"})
        _write_first(store / "zarr.json", encode(layout.consolidated(root, {**everything, track.group: own})))
    else:
        _write_first(group / "zarr.json", encode(layout.consolidated(own, everything)))
    _write_first(group / "time" / "zarr.json", encode(time))


def shard_path(job_dir: Path, track: Track, name: str, node: int, column: int) -> Path:
    """The file of array `name` for the node with this index and the shard with this number, counted from the origin."""
    key = layout.chunk_key(node, column) if name == layout.OFFSET else layout.chunk_key(node, 0, column)
    return job_dir / layout.STORE / track.group / name / key


def shard_files(job_dir: Path, track: Track, node: int) -> Iterator[tuple[str, int, Path]]:
    """Array name, shard number and path of every shard file that one node has."""
    for name in [*(part.form.name for part in track.parts), layout.OFFSET]:
        directory = job_dir / layout.STORE / track.group / name
        if directory.is_dir():
            for path in sorted(directory.iterdir()):
                blocks = layout.parse_chunk_key(path.name)
                if blocks is not None and blocks[0] == node and path.name.startswith("c"):
                    yield name, blocks[1], path


def put_mark(job_dir: Path, mark: Mark) -> None:
    """Write a node's mark for a track; merging takes the newest one and removes the others."""
    marks = job_dir / layout.MARKS
    make_directory(marks)
    (marks / mark.name).touch(mode=0o640)
    files.sync_directory(marks)


def coordinate_chunks(track: Track) -> dict[str, bytes]:
    """The chunk of every coordinate that never changes (key: file in the group)."""
    key = layout.chunk_key(0)
    chunks = {
        f"{part.form.name}_channel/{key}": codec.vlen_utf8([channel.name for channel in part.channels])
        for part in track.parts
    }
    chunks[f"node/{key}"] = codec.vlen_utf8(list(track.plan.nodes))
    return chunks


def time_chunk(track: Track, number: int) -> bytes:
    """One chunk of the time coordinate; it is the same however long the job becomes."""
    rows = layout.shard_rows(track.period_ns)
    return _times(track.origin + number * rows, rows, track.period_ns)


@lru_cache(maxsize=4)  # the same for all jobs of a day at one period
def _times(first: int, rows: int, step: int) -> bytes:
    return codec.encode_chunk(array("q", range(first * step, (first + rows) * step, step)).tobytes(), 8)


def encode(document: Json) -> bytes:
    """A `zarr.json`."""
    return json.dumps(document, separators=(",", ":")).encode()


def make_directory(path: Path) -> None:
    """Make a directory and those above it, as far as they are missing."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


def _write_first(path: Path, data: bytes) -> None:
    make_directory(path.parent)
    files.write_first(path, data)
