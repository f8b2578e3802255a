"""The reference tables of docs/policy.md and docs/launcher.md: `python -m perun_hpc.config.reference policy | user`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from perun_hpc.config.schema import FIELDS, SECTIONS, Bound, Layer
from perun_hpc.config.user_schema import OPTIONS


def of_policy() -> str:
    """One Markdown table per section: field, default, who may set it, what it does."""
    lines: list[str] = []
    for section, cls in SECTIONS.items():
        rows = []
        for field in FIELDS.values():
            if field.section == section:
                layers = ", ".join(layer.value for layer in Layer if layer in field.layers)
                rule = "" if field.bound is Bound.FREE else f" (below the site: {field.bound.value})"
                rows.append((f"`{field.name}`", f"`{field.shown_default}`", f"{layers}{rule}", field.doc))
        lines += [f"### {section}", "", str(cls.__doc__), ""]
        lines += [*_table(("field", "default", "set per", "what"), rows), ""]
    return "\n".join(lines)


def of_user() -> str:
    """One Markdown table: section and option as in a file, default, what it does."""
    rows = (
        (f"`{option.section}`", f"`{option.name}`", f"`{shown}`" if shown else "", option.doc)
        for option in OPTIONS.values()
        for shown in [option.kind.show(option.default)]
    )
    return "\n".join([*_table(("section", "option", "default", "what"), rows), ""])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head,)] + [
        "|" + "---|" * len(head),
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]


if __name__ == "__main__":
    print(of_user() if sys.argv[1:] == ["user"] else of_policy(), end="")
