"""`Backend`: one entry of the catalog as an object that finds, lists and gives back its sensors."""

from __future__ import annotations

from pathlib import Path

from perun_hpc.backend import catalog
from perun_hpc.backend.base import Discovery, Reader
from perun_hpc.data_model.sensor import Missing, Sensor


class Backend:
    """A source of sensors, opened when it is first asked.

    Parameters
    ----------
    name : of the catalog's entry; NotFoundError names the known ones.
    root : below which /sys and /proc are looked for.
    """

    def __init__(self, name: str, root: Path = Path("/")) -> None:
        self._entry = catalog.named(name)
        self._root = root
        self._found: Discovery | None = None

    @property
    def id(self) -> str:
        """The name by which configuration and sensors know it."""
        return self._entry.name

    @property
    def name(self) -> str:
        """The same."""
        return self._entry.name

    @property
    def description(self) -> str:
        """What it reads, in a few words."""
        return self._entry.what

    def discover(self) -> Discovery:
        """What it finds; the same at each call until `close`."""
        if self._found is None:
            self._found = catalog.open_backend(self._entry.name, self._root)
        return self._found

    def visible_sensors(self) -> dict[str, Sensor]:
        """The sensors that can be read, by id."""
        return {sensor.id: sensor for sensor in self.discover().sensors}

    def missing(self) -> tuple[Missing, ...]:
        """The sensors that are known and cannot be read."""
        return self.discover().missing

    def readers(self) -> tuple[Reader, ...]:
        """The open readers."""
        return self.discover().readers

    def close(self) -> None:
        """Close what is open; a second call does nothing."""
        found, self._found = self._found, None
        if found is not None:
            found.close()
