"""The kinds of values a policy holds: how each is written, checked, shown and described in JSON Schema.

Every kind parses the text as it stands in the file, so that `off`, `1e3` or a date mean what is written there
and not what a YAML resolver makes of them. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from perun_hpc.slurm import hostlist

JsonSchema = dict[str, Any]

DURATIONS = {"ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
POWERS = {"mW": 10**3, "W": 10**6, "kW": 10**9}
ENERGIES = {"J": 10**6, "kWh": 3_600_000 * 10**6, "MWh": 3_600_000 * 10**9, "GWh": 3_600_000 * 10**12}
_DECIMAL = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)")
_DIGITS = 40
_ONE: int = 10**_DIGITS
"""A number has at most so many digits; they are compared as integers of 10**-_DIGITS, and so exactly."""
_NUMBER = re.compile(rf"{_DECIMAL.pattern}([eE][+-]?\d{{1,3}})?", re.ASCII)


class Kind(Protocol):
    """One kind of value."""

    @property
    def suffix(self) -> str:
        """What the unit adds to a field's name in the compiled policy: `_ns`, `_b`, `_uw`, `_uj` or nothing."""

    def parse(self, text: str) -> Any:
        """The value that `text` means, in base units; raises ValueError with what is allowed."""

    def show(self, value: Any) -> str:
        """`value` as a person would write it in the file."""

    def json_schema(self) -> JsonSchema:
        """What an editor should accept."""


def _exact(text: str) -> int:
    """A decimal number in units of 10**-_DIGITS (`fractions` would cost each agent and command 0.4 MB)."""
    if not _DECIMAL.fullmatch(text) or len(text) > _DIGITS:
        raise ValueError("a number")
    whole, _, decimals = text.partition(".")
    return int(whole + decimals.ljust(_DIGITS, "0"))


def _rounded(value: int) -> int:
    """To whole ones; what is in the middle to the even one."""
    whole, rest = divmod(value, _ONE)
    return whole + (2 * rest + (whole & 1) > _ONE)


@dataclass(frozen=True)
class Quantity:
    """A number with its unit written out, as in `5s` or `30 GiB`; stored as an integer of the base unit."""

    suffix: str
    units: Mapping[str, int]
    example: str
    minimum: str | None = None
    maximum: str | None = None
    words: tuple[str, ...] = ()

    def parse(self, text: str) -> int | str:
        """The integer in base units, or one of the kind's words."""
        if text in self.words:
            return text
        match = re.fullmatch(r"([+-]?[\d.]+)\s*([A-Za-z]+)", text)
        if match is None or match[2] not in self.units:
            raise ValueError(self._allowed())
        try:
            value = _exact(match[1]) * self.units[match[2]]
        except ValueError:
            raise ValueError(self._allowed()) from None
        low, high = self._limit(self.minimum), self._limit(self.maximum)
        if value < (0 if low is None else low) or (high is not None and value > high):
            raise ValueError(self._allowed())
        return _rounded(value)

    def _limit(self, text: str | None) -> int | None:
        if text is None:
            return None
        number, unit = text.split()
        return _exact(number) * self.units[unit]

    def _allowed(self) -> str:
        span = ""
        if self.minimum is not None or self.maximum is not None:
            span = f", from {self.minimum or '0'}" + (f" to {self.maximum}" if self.maximum else "")
        words = "".join(f"'{word}' or " for word in self.words)
        return f"{words}a number with a unit ({', '.join(self.units)}), as in '{self.example}'{span}"

    def show(self, value: int | str) -> str:
        """In the largest unit that divides the value."""
        if isinstance(value, str):
            return value
        unit = max((u for u, size in self.units.items() if value % size == 0), key=self.units.__getitem__, default="")
        if value == 0 or not unit:
            unit = min(self.units, key=self.units.__getitem__)
        whole, rest = divmod(value, self.units[unit])
        return f"{value / self.units[unit] if rest else whole} {unit}"

    def json_schema(self) -> JsonSchema:
        """A pattern of number and unit."""
        pattern = {"type": "string", "pattern": rf"^[0-9.]+ *({'|'.join(self.units)})$"}
        return {"anyOf": [{"enum": list(self.words)}, pattern]} if self.words else pattern


def duration(minimum: str | None = None, maximum: str | None = None, *words: str) -> Quantity:
    """A time span in nanoseconds, or one of `words`."""
    return Quantity("_ns", DURATIONS, "5 s", minimum, maximum, words)


def size(minimum: str | None = None, *words: str) -> Quantity:
    """An amount of data in bytes, or one of `words`."""
    return Quantity("_b", SIZES, "30 GiB", minimum, words=words)


def power(*words: str) -> Quantity:
    """A power in microwatts, or one of `words`."""
    return Quantity("_uw", POWERS, "10 W", words=words)


def energy(*words: str) -> Quantity:
    """An energy in microjoules, or one of `words`."""
    return Quantity("_uj", ENERGIES, "500 kWh", words=words)


@dataclass(frozen=True)
class Number:
    """A plain number within bounds; `above`: the lower one itself is too low."""

    low: float
    high: float = math.inf
    integer: bool = False
    above: bool = False
    suffix: str = ""

    def parse(self, text: str) -> int | float:
        """An int or a float within the bounds."""
        value = float(text) if _NUMBER.fullmatch(text) and len(text) <= 40 else math.nan
        within = self.low <= value <= self.high and not (self.above and value == self.low)
        if not within or math.isinf(value) or (self.integer and not value.is_integer()):
            raise ValueError(self._allowed())
        return int(value) if self.integer else value

    def _allowed(self) -> str:
        number = "a whole number" if self.integer else "a number"
        if math.isinf(self.high):
            return f"{number} {'above' if self.above else 'of at least'} {self.low:g}"
        return f"{number} from {self.low:g} to {self.high:g}"

    def show(self, value: float) -> str:
        """The number."""
        return f"{value:g}"

    def json_schema(self) -> JsonSchema:
        """A bounded number."""
        low = {"exclusiveMinimum" if self.above else "minimum": self.low}
        high = {} if math.isinf(self.high) else {"maximum": self.high}
        return {"type": "integer" if self.integer else "number", **low, **high}


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    suffix: str = ""

    def parse(self, text: str) -> bool:
        """True or False."""
        if text.lower() in ("true", "yes", "on"):
            return True
        if text.lower() in ("false", "no", "off"):
            return False
        raise ValueError("true or false")

    def show(self, value: bool) -> str:
        """`true` or `false`."""
        return "true" if value else "false"

    def json_schema(self) -> JsonSchema:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice:
    """One of a few words, ordered from the most to the least that a job may get."""

    words: tuple[str, ...]
    suffix: str = ""

    def parse(self, text: str) -> str:
        """The word itself."""
        if text not in self.words:
            raise ValueError(f"one of: {', '.join(word or chr(39) * 2 for word in self.words)}")
        return text

    def show(self, value: str) -> str:
        """The word."""
        return value

    def json_schema(self) -> JsonSchema:
        """An enumeration; editors read a bare off or none as YAML does, so those are listed too."""
        return {"enum": [*self.words, *([False] if "off" in self.words else [])]}


@dataclass(frozen=True)
class Text:
    """One line of text that matches a pattern; `empty_ok` allows the empty string, meaning `none`.

    `rule` says in words what the pattern allows, where the example does not show it.
    """

    pattern: str
    example: str
    empty_ok: bool = False
    rule: str = ""
    suffix: str = ""

    def parse(self, text: str) -> str:
        """The text itself."""
        if text == "" and self.empty_ok:
            return text
        if len(text) > 4096 or not text.isprintable() or not re.fullmatch(self.pattern, text):
            rule = f" ({self.rule})" if self.rule else ""
            raise ValueError(f"text like '{self.example}'{rule}" + (" or ''" if self.empty_ok else ""))
        return text

    def show(self, value: str) -> str:
        """Quoted where it is empty."""
        return value or "''"

    def json_schema(self) -> JsonSchema:
        """A string with the pattern."""
        pattern = f"^({self.pattern})?$" if self.empty_ok else f"^{self.pattern}$"
        return {"type": "string", "pattern": pattern}


@dataclass(frozen=True)
class Line:
    """Any text."""

    suffix: str = ""

    def parse(self, text: str) -> str:
        """The text itself."""
        return text

    def show(self, value: str) -> str:
        """The text."""
        return value

    def json_schema(self) -> JsonSchema:
        """A string."""
        return {"type": "string"}


@dataclass(frozen=True)
class Words:
    """Several values of one kind in one text, with commas or blanks in between."""

    element: Kind
    suffix: str = ""

    def parse(self, text: str) -> tuple[Any, ...]:
        """The values, in order."""
        values = []
        for word in text.replace(",", " ").split():
            try:
                values.append(self.element.parse(word))
            except ValueError as error:
                raise ValueError(f"in place of '{word[:40]}' {error}") from None
        return tuple(values)

    def show(self, value: tuple[Any, ...]) -> str:
        """With commas."""
        return ",".join(self.element.show(one) for one in value)

    def json_schema(self) -> JsonSchema:
        """A string."""
        return {"type": "string"}


@dataclass(frozen=True)
class OrNothing:
    """A value of one of some kinds, the first that takes the text, or none: an empty text, or `None`."""

    kinds: tuple[Kind, ...]
    suffix: str = ""

    def parse(self, text: str) -> Any:
        """The value, or None."""
        text = text.strip()
        if text in ("", "None"):
            return None
        allowed = []
        for kind in self.kinds:
            try:
                return kind.parse(text)
            except ValueError as error:
                allowed.append(str(error))
        raise ValueError(f"{' or '.join(allowed)}, or nothing")

    def show(self, value: Any) -> str:
        """Empty for none."""
        if value is None:
            return ""
        return value if isinstance(value, str) else f"{value:.12g}"

    def json_schema(self) -> JsonSchema:
        """Any of them, or an empty string."""
        return {"anyOf": [{"const": ""}, *(kind.json_schema() for kind in self.kinds)]}


@dataclass(frozen=True)
class Upper(Text):
    """Text that counts in upper case, however a person writes it."""

    def parse(self, text: str) -> str:
        """The text in upper case."""
        return super().parse(text).upper()


@dataclass(frozen=True)
class Lower(Text):
    """Text that Slurm keeps in lower case, however a person writes it."""

    def parse(self, text: str) -> str:
        """The text as Slurm has it."""
        return lower_case(super().parse(text))


def lower_case(name: str) -> str:
    """A name as Slurm's database keeps it (sacctmgr(1)): accounts, QOS and clusters; not partitions, not nodes."""
    return name.encode(errors="surrogateescape").lower().decode(errors="surrogateescape")


@dataclass(frozen=True)
class Day:
    """A day of the calendar."""

    suffix: str = ""

    def parse(self, text: str) -> str:
        """The text itself."""
        from datetime import date  # here: the agent, which reads compiled policies, does without

        try:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
                raise ValueError
            date.fromisoformat(text)
        except ValueError:
            raise ValueError("a day of the calendar, as in '2026-01-31'") from None
        return text

    def show(self, value: str) -> str:
        """The day."""
        return value

    def json_schema(self) -> JsonSchema:
        """A string that is a date."""
        return {"type": "string", "format": "date", "pattern": r"^\d{4}-\d{2}-\d{2}$"}


PATH = r"/([^/]+(/[^/]+)*/?)?"


def path(empty_ok: bool = False) -> Text:
    """An absolute path."""
    return Text(PATH, "/shared/perun", empty_ok)


@dataclass(frozen=True)
class Regex:
    """A regular expression; `groups` is how many groups it must have, None: any number."""

    groups: int | None = None
    suffix: str = ""

    def parse(self, text: str) -> str:
        """The expression's text, once it compiles."""
        try:
            found = re.compile(text).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"a regular expression ({error})") from None
        if self.groups is not None and found != self.groups:
            raise ValueError(f"a regular expression with {self.groups} group in parentheses")
        return text

    def show(self, value: str) -> str:
        """The expression."""
        return value

    def json_schema(self) -> JsonSchema:
        """A string that is an expression."""
        return {"type": "string", "format": "regex"}


@dataclass(frozen=True)
class NodeList:
    """Slurm's way to name nodes, as in `n[01-16],login`; empty means all."""

    suffix: str = ""

    def parse(self, text: str) -> str:
        """The list's text, once it expands."""
        try:
            hostlist.stated(text)
        except ValueError as error:
            raise ValueError(f"nodes as Slurm writes them, as in 'n[01-16]' ({error})") from None
        return text

    def show(self, value: str) -> str:
        """Quoted where it is empty."""
        return value or "''"

    def json_schema(self) -> JsonSchema:
        """A string."""
        return {"type": "string"}


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind."""

    element: Kind
    suffix: str = ""

    def parse(self, text: str) -> tuple[Any, ...]:
        """The empty tuple for `[]`; lists in the file are parsed element by element."""
        if text.strip("[] "):
            raise ValueError("a list, as in '[a, b]'")
        return ()

    def show(self, value: tuple[Any, ...]) -> str:
        """In brackets."""
        return f"[{', '.join(self.element.show(item) for item in value)}]"

    def json_schema(self) -> JsonSchema:
        """An array of the element."""
        return {"type": "array", "items": self.element.json_schema(), "uniqueItems": True}


@dataclass(frozen=True)
class Key:
    """One entry of a `Table`: its kind and whether it may be left out."""

    kind: Kind
    doc: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A small mapping with fixed keys.

    `one_of` names keys of which exactly one must stand there; `fit` says what is wrong with keys that are each right.
    """

    keys: Mapping[str, Key]
    one_of: tuple[str, ...] = ()
    fit: Callable[[Mapping[str, Any]], str | None] | None = None
    suffix: str = ""

    def parse(self, text: str) -> dict[str, Any]:
        """The empty table for `{}`; tables in the file are parsed key by key."""
        if text.strip("{} "):
            raise ValueError(f"a mapping with {', '.join(self.keys)}")
        return {}

    def fault(self, values: Mapping[str, Any]) -> str | None:
        """What is wrong with a table of these values (None for one that is wrong in itself); None where it is right."""
        for name, key in self.keys.items():
            if key.required and name not in values:
                return f"'{name}' is missing: {key.doc}"
        if self.one_of and sum(name in values for name in self.one_of) != 1:
            return f"exactly one of {', '.join(self.one_of)} must be given"
        return self.fit(values) if self.fit else None

    def show(self, value: Mapping[str, Any]) -> str:
        """In braces."""
        shown = (f"{name}: {self.keys[_bare(name, self.keys)].kind.show(item)}" for name, item in value.items())
        return "{" + ", ".join(shown) + "}"

    def json_schema(self) -> JsonSchema:
        """An object with these keys only."""
        return {
            "type": "object",
            "additionalProperties": False,
            "required": [name for name, key in self.keys.items() if key.required],
            "properties": {name: {"description": key.doc, **key.kind.json_schema()} for name, key in self.keys.items()},
            **({"oneOf": [{"required": [name]} for name in self.one_of]} if self.one_of else {}),
        }


def _bare(compiled: str, keys: Mapping[str, Key]) -> str:
    return next(name for name, key in keys.items() if name + key.kind.suffix == compiled)
