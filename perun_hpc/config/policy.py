"""The site policy as it stands in its YAML file: read, checked at every mistake at once, with line and column."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from perun_hpc.config.kinds import Kind, ListOf, Table
from perun_hpc.config.option import nearest, refusal
from perun_hpc.config.resolve import bounded
from perun_hpc.config.schema import ACCOUNT, FIELDS, LAYERS, NAME, SECTIONS, Bound, Layer
from perun_hpc.errors import ConfigError
from perun_hpc.inputs import read_regular
from perun_hpc.slurm import hostlist

DEFAULT_PATH = Path("/etc/perun/policy.yaml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 32
"""Brackets within brackets; the YAML library's time grows with their square, and no policy has more than a few."""


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a policy file; line and column count from 1."""

    source: str
    line: int
    column: int
    where: str
    what: str

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{self.source}:{self.line}:{self.column}: {where}{self.what}"


class PolicyError(ConfigError):
    """A policy file with mistakes; its text has one line per mistake."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda m: (m.line, m.column)))
        super().__init__("\n".join(map(str, self.mistakes)))


@dataclass
class LayerEntry:
    """What one layer sets: values and the place of each, by `section.attribute`."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass
class Policy:
    """A checked policy: what the file sets, without defaults."""

    source: str
    site: LayerEntry = dataclasses.field(default_factory=LayerEntry)
    partitions: dict[str, LayerEntry] = dataclasses.field(default_factory=dict)
    nodes: dict[str, LayerEntry] = dataclasses.field(default_factory=dict)
    accounts: dict[str, LayerEntry] = dataclasses.field(default_factory=dict)


def locate(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the site's policy lies: `$PERUN_POLICY`, else `/etc/perun/policy.yaml`."""
    return Path(environ.get("PERUN_POLICY") or DEFAULT_PATH)


def load(path: Path) -> Policy:
    """Read and check a policy file.

    Raises
    ------
    PolicyError
        with every mistake of the file.
    ConfigError
        where the file cannot be read.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read policy {path}: {error.strerror}; write one, or set PERUN_POLICY") from error
    return parse(data, str(path))


def in_force(environ: Mapping[str, str] = os.environ) -> Policy:
    """The site's policy where there is a file, else an empty one: the defaults."""
    path = locate(environ)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Policy("default")
    except OSError:
        pass  # loading says why: a file that nobody may look at is no site without a policy
    return load(path)


def parse(data: bytes, source: str) -> Policy:
    """Check the text of a policy.

    Parameters
    ----------
    data : the file's bytes, UTF-8.
    source : what messages and origins call it.

    Returns
    -------
    What the file sets, without defaults.

    Raises
    ------
    PolicyError
        with every mistake of the text.
    """
    if len(data) > MAX_BYTES:
        raise PolicyError([Mistake(source, 1, 1, "", f"larger than {MAX_BYTES} bytes: not a policy")])
    root = _composed(data, source)
    reader = _Reader(source)
    policy = reader.policy(root)
    if reader.mistakes:
        raise PolicyError(reader.mistakes)
    return policy


def parse_table(data: bytes, source: str, kind: Table) -> dict[str, Any]:
    """Check a file that is one table, as `parse` does a policy; nothing in it is an empty one."""
    root = _composed(data, source)
    reader = _Reader(source)
    table = {} if root is None else reader.table(root, kind)
    if reader.mistakes:
        raise PolicyError(reader.mistakes)
    return table


def _composed(data: bytes, source: str) -> yaml.Node | None:
    """The nodes of a YAML text. PolicyError where it is none."""
    try:
        return yaml.compose(data.decode(), Loader=_Loader)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PolicyError([Mistake(source, line, 1, "", "not UTF-8 text")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PolicyError([Mistake(source, line, column, "", f"not YAML: {error.problem}")]) from error
    except (yaml.YAMLError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "holds characters that YAML forbids"
        raise PolicyError([Mistake(source, 1, 1, "", what)]) from error


class _Loader(yaml.SafeLoader):
    """YAML without aliases and of bounded depth: a policy has no use for more, and both can blow up."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, f"nested more than {MAX_DEPTH} deep", self.get_mark())
        super().fetch_flow_collection_start(TokenClass)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used in a policy", event.start_mark)
        return super().compose_node(parent, index)


class _Reader:
    """Walks the YAML nodes along the schema and collects mistakes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.mistakes: list[Mistake] = []
        self.marks: dict[int, dict[str, yaml.Node]] = {}

    def policy(self, root: yaml.Node | None) -> Policy:
        policy = Policy(self.source)
        if root is None:
            return policy
        entries = list(self._entries(root, "", [*SECTIONS, *LAYERS]))
        self._layer_entry(policy.site, [(k, v) for k, v in entries if k.value in SECTIONS], Layer.SITE, "")
        for key, node in entries:
            if key.value in LAYERS:
                self._named_layers(getattr(policy, key.value), node, key.value)
        self._check_limits(policy)
        return policy

    def table(self, root: yaml.Node, kind: Table) -> dict[str, Any]:
        if not isinstance(root, yaml.MappingNode):
            self._mistake(root, "", f"expected a mapping of {', '.join(kind.keys)}")
            return {}
        return dict(self._value(root, kind, ""))

    def _named_layers(self, into: dict[str, LayerEntry], node: yaml.Node, layer: str) -> None:
        for key, body in self._entries(node, layer, None):
            where, name = f"{layer}.{key.value}", key.value
            try:
                if LAYERS[layer] is Layer.NODE:
                    if not hostlist.stated(key.value):
                        raise ValueError("no node named")
                else:
                    name = (ACCOUNT if LAYERS[layer] is Layer.ACCOUNT else NAME).parse(key.value)
            except ValueError as error:
                expected = "nodes as Slurm writes them: " if LAYERS[layer] is Layer.NODE else "a name: expected "
                self._mistake(key, where, f"'{key.value[:60]}' is not {expected}{error}")
                continue
            if name in into:
                self._mistake(key, where, f"'{name}' stands here twice: Slurm keeps account names in lower case")
                continue
            into[name] = LayerEntry()
            sections = list(self._entries(body, where, list(SECTIONS)))
            self._layer_entry(into[name], sections, LAYERS[layer], where + ".")

    def _layer_entry(
        self, entry: LayerEntry, sections: list[tuple[yaml.ScalarNode, yaml.Node]], layer: Layer, prefix: str
    ) -> None:
        marks = self.marks.setdefault(id(entry), {})
        for section, node in sections:
            known = {field.name: field for field in FIELDS.values() if field.section == section.value}
            for key, value in self._entries(node, prefix + section.value, list(known)):
                field, where = known[key.value], f"{prefix}{section.value}.{key.value}"
                if layer not in field.layers:
                    allowed = ", ".join(item.value for item in Layer if item in field.layers and item is not Layer.USER)
                    self._mistake(key, where, f"cannot be set per {layer.value}; allowed: {allowed}")
                    continue
                before = len(self.mistakes)
                parsed = self._value(value, field.kind, where)
                if len(self.mistakes) == before:
                    entry.values[field.key] = parsed
                    entry.origins[field.key] = f"{self.source}:{key.start_mark.line + 1}"
                    marks[field.key] = value

    def _entries(
        self, node: yaml.Node, where: str, known: list[str] | None
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Key and value nodes of a mapping whose keys are scalars, known and not repeated."""
        if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
            return
        if not isinstance(node, yaml.MappingNode):
            expected = f"a mapping of {', '.join(known)}" if known else "a mapping from name to sections"
            self._mistake(node, where, f"expected {expected}")
            return
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(key, where, "a key must be a plain word")
            elif key.value in seen:
                self._mistake(key, where, f"'{key.value}' stands here twice")
            elif known is not None and key.value not in known:
                self._mistake(
                    key, where, f"unknown key '{key.value[:60]}': {_nearest(key.value, known)}{_home(key.value)}"
                )
            else:
                seen.add(key.value)
                yield key, value

    def _value(self, node: yaml.Node, kind: Kind, where: str) -> Any:
        if isinstance(kind, ListOf) and isinstance(node, yaml.SequenceNode):
            values = tuple(
                self._value(item, kind.element, f"{where}[{index}]") for index, item in enumerate(node.value)
            )
            for index, value in enumerate(values):
                if value is not None and value in values[:index]:
                    self._mistake(node.value[index], where, "stands in the list twice")
            return values
        if isinstance(kind, Table) and isinstance(node, yaml.MappingNode):
            table = {
                key.value: self._value(value, kind.keys[key.value].kind, f"{where}.{key.value}".lstrip("."))
                for key, value in self._entries(node, where, list(kind.keys))
            }
            if fault := kind.fault(table):
                self._mistake(node, where, fault)
            return {name + kind.keys[name].kind.suffix: value for name, value in table.items()}
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        try:
            if text is None:
                raise ValueError(_article(kind.json_schema()))
            return kind.parse(text)
        except ValueError as error:
            self._mistake(node, where, refusal(kind, text, error))
            return None

    def _check_limits(self, policy: Policy) -> None:
        """Refuse what would be bounded away by the site's own values in every case."""
        site: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for field in FIELDS.values():
            site[field.section][field.attribute] = policy.site.values.get(field.key, field.default)
        self._check_entry(policy.site, site, site, "")
        for layer in LAYERS:
            for name, entry in getattr(policy, layer).items():
                section = {key: dict(values) for key, values in site.items()}
                for key, value in entry.values.items():
                    section[FIELDS[key].section][FIELDS[key].attribute] = value
                self._check_entry(entry, site, section, f"{layer}.{name}.")

    def _check_entry(
        self, entry: LayerEntry, site: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]], prefix: str
    ) -> None:
        for key, value in entry.values.items():
            field = FIELDS[key]
            if not prefix and field.bound is not Bound.BETWEEN:
                continue
            section = own[field.section] if field.bound is Bound.BETWEEN else site[field.section]
            allowed = bounded(field, site[field.section][field.attribute], value, section)
            if allowed != value:
                shown, limit = field.kind.show(value), field.kind.show(allowed)
                rule = f"the site's value bounds it ({field.bound.value})"
                self._mistake(self.marks[id(entry)][key], prefix + field.path, f"{shown}: {rule}; nearest is {limit}")

    def _mistake(self, node: yaml.Node, where: str, what: str) -> None:
        mark = node.start_mark
        printable = "".join(char if char.isprintable() else "?" for char in what)
        place = "".join(char if char.isprintable() else "?" for char in where[:200])
        self.mistakes.append(Mistake(self.source, mark.line + 1, mark.column + 1, place, printable))


def _home(text: str) -> str:
    """Where a field of that name belongs, if there is one."""
    homes = [field.path for field in FIELDS.values() if field.name == text]
    return f" (there is {' and '.join(homes)})" if homes else ""


def _nearest(text: str, words: list[str]) -> str:
    near = nearest(text, words)
    return f"did you mean '{near}'?" if near else f"allowed: {', '.join(words)}"


def _article(schema: Mapping[str, Any]) -> str:
    return {"array": "a list", "object": "a mapping"}.get(str(schema.get("type")), "one value")
