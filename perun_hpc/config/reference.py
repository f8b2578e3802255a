"""The reference table of docs/policy.md, printed from the table of fields: `python -m perun_hpc.config.reference`."""

from __future__ import annotations

from perun_hpc.config.policy import default_of
from perun_hpc.config.schema import FIELDS, SECTIONS, Bound, Layer


def reference() -> str:
    """One Markdown table per section: field, default, who may set it, what it does."""
    lines: list[str] = []
    for section, cls in SECTIONS.items():
        lines += [
            f"### {section}",
            "",
            str(cls.__doc__),
            "",
            "| field | default | set per | what |",
            "|---|---|---|---|",
        ]
        for field in FIELDS.values():
            if field.section == section:
                layers = ", ".join(layer.value for layer in Layer if layer in field.layers)
                rule = "" if field.bound is Bound.FREE else f" (below the site: {field.bound.value})"
                lines.append(f"| `{field.name}` | `{default_of(field)}` | {layers}{rule} | {field.doc} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
