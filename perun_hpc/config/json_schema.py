"""The policy's JSON Schema, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any

from perun_hpc.config.schema import FIELDS, LAYERS, SECTIONS, Field, Layer


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the whole policy file, derived from the one table of fields."""
    layers = {
        name: {
            "type": ["object", "null"],
            "description": f"what holds per {layer.value}, bounded by what stands above it",
            "additionalProperties": _sections(layer),
        }
        for name, layer in LAYERS.items()
    }
    top = _sections(Layer.SITE)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "perun-hpc site policy",
        **top,
        "properties": {**top["properties"], **layers},
    }


def _sections(layer: Layer) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        chosen = {
            field.name: _field(field) for field in FIELDS.values() if field.section == section and layer in field.layers
        }
        if chosen:
            properties[section] = {
                "type": ["object", "null"],
                "description": cls.__doc__,
                "additionalProperties": False,
                "properties": chosen,
            }
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _field(field: Field) -> dict[str, Any]:
    return {"description": f"{field.doc} (default: {field.shown_default})", **field.kind.json_schema()}
