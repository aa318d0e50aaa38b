"""Build the JSON Schema of a recipe, with which editors complete and check keys."""

from collections.abc import Iterable
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from mtlcli import registry
from mtlcli.config.evaluation_sets import EvaluationSet
from mtlcli.config.schema import Choice, Config, EncoderConfig, HeadChoice, OptimizerConfig, TaskConfig, TrainingConfig
from mtlcli.errors import MtlError
from mtlcli.registry import FAMILIES

Schema = dict[str, Any]

# Draft 7, which the YAML language server of editors supports.
DRAFT = "http://json-schema.org/draft-07/schema#"
# A column may be given by its number, and a class may be a number.
TEXT_OR_NUMBER: Schema = {"type": ["string", "number"]}
TEXTS: Schema = {"anyOf": [TEXT_OR_NUMBER, {"type": "array", "items": TEXT_OR_NUMBER}]}
CELL: Schema = {"type": ["string", "number", "boolean"]}
WHERE: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [CELL, {"type": "array", "items": CELL, "minItems": 1}]},
}
ROWS: Schema = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "anyOf": [
                    {"type": ["string", "null"]},
                    {
                        "type": "object",
                        "properties": {
                            "file": {"type": "string", "description": EvaluationSet.model_fields["file"].description},
                            "where": {"description": EvaluationSet.model_fields["where"].description, **WHERE},
                            "part": {
                                "description": EvaluationSet.model_fields["part"].description,
                                "type": "array",
                                "items": {"type": "number", "minimum": 0, "maximum": 1},
                                "minItems": 2,
                                "maxItems": 2,
                            },
                        },
                        "additionalProperties": False,
                    },
                ]
            },
        },
    ]
}
SHORT_FORMS: dict[str, Schema] = {
    "text": TEXTS,
    "dev": ROWS,
    "test": ROWS,
    "select_dev": TEXTS,
    "where": WHERE,
    "group": TEXT_OR_NUMBER,
    "label": TEXTS,
    "choices": TEXTS,
    "labels": TEXTS,
    "aliases": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "no_label": TEXTS,
    "class_weights": {
        "anyOf": [
            {"enum": ["auto", "auto-sqrt"]},
            {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
        ]
    },
    "weight": TEXT_OR_NUMBER,
    "range": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}]
    },
}
"""Schemas of the task keys whose values are converted before they are validated."""


def recipe_schema(*, built_in: bool = False) -> Schema:
    """Return the JSON Schema (draft 7) of a recipe, with the options of every plugin.

    Args:
        built_in: leave out the plugins of other packages. A plugin that cannot be imported is listed without options.
    """
    builder = _Builder(built_in)
    properties: dict[str, Schema] = {"tasks": builder.tasks()}
    # Any name, because a folder or a Hub id is an encoder too.
    properties["encoder"] = _or_null(builder.choice("encoders", _own_fields(EncoderConfig), any_name=True))
    for family in FAMILIES.values():
        if not family.key or family.key in properties:
            continue
        section = builder.choice(family.name, {})
        properties[family.key] = _or_null(
            {"anyOf": [section, {"type": "array", "items": section}]} if family.many else section
        )
    for key, model in (("optimizer", OptimizerConfig), ("training", TrainingConfig)):
        properties[key] = _or_null(_without_titles(model.model_json_schema()))
    plain = _without_titles(Config.model_json_schema()["properties"])
    for key, field in Config.model_fields.items():
        properties.setdefault(key, plain[key])
        properties[key] = {"description": field.description, **properties[key]}
    return {
        "$schema": DRAFT,
        "title": "mtlcli recipe",
        # An empty file is a recipe: flags may name the tasks.
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {key: properties[key] for key in Config.model_fields},
        "definitions": dict(sorted(builder.definitions.items())),
    }


class _Builder:
    """Build the schemas of choices, collecting the nested models of options as definitions of the whole schema."""

    def __init__(self, built_in: bool) -> None:
        self.built_in = built_in
        self.definitions: dict[str, Schema] = {}

    def tasks(self) -> Schema:
        """Return the schema of `tasks`: names, or a mapping of names to settings."""
        head = self.choice("heads", {}, name_required=False)
        metric = self.choice("metrics", {})
        fields = _own_fields(TaskConfig) | {"head": _or_null(head)}
        metrics = _or_null({"anyOf": [metric, {"type": "string"}, {"type": "array", "items": metric, "minItems": 1}]})
        fields["metrics"] = {"description": TaskConfig.model_fields["metrics"].description} | metrics
        fields["name"] = {"type": "string", "description": "the same as kind"}
        task = self.choice("tasks", fields, key="kind", name_required=False)
        return {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": _or_null(task)},
                {"type": "null"},
            ]
        }

    def choice(
        self, family: str, fields: dict[str, Schema], *, key: str = "name", name_required: bool = True, any_name: bool = False
    ) -> Schema:  # fmt: skip
        """Return the schema of a section that selects a plugin, as a name or as a mapping with its options.

        Args:
            family: family of the plugin.
            fields: the core's own keys of the section, besides the plugin's name.
            key: the key of the plugin's name.
            name_required: whether the schema decides about a mapping without a name: it selects the default plugin, or is
                invalid if there is none. False if `resolve` fills in the name.
            any_name: whether a name may refer to something other than a plugin, such as a folder.
        """
        row = FAMILIES[family]
        # The key of a flag's default family also takes the plugins of the other families, and a sum of both.
        families = registry.families_of_flag(row.flag) if row.flag and row.default else (row,)
        entries = [entry for member in families for entry in self._entries(member.name)]
        names = list(dict.fromkeys(entry.name for entry in entries))
        pattern = ":|\\+" if len(families) > 1 else ":"
        name: Schema = {
            "anyOf": [{"enum": names}, {"type": "string"} if any_name else {"type": "string", "pattern": pattern}]
        }
        # One rule per plugin, because each has other options.
        rules = [
            {
                "if": {"properties": {key: {"const": entry.name}}, "required": [key]},
                "then": self._options(entry, fields, key),
            }
            for entry in entries
        ]
        if name_required and row.default:
            default = next(entry for entry in entries if entry.name == row.default)
            rules.append({"if": {"not": {"required": [key]}}, "then": self._options(default, fields, key)})
        mapping: Schema = {"type": "object", "properties": {key: name, **fields}, "allOf": rules}
        if name_required and not row.default:
            mapping["required"] = [key]
        return self._define(family, {"anyOf": [name, mapping]})

    def _entries(self, family: str) -> Iterable[registry.Entry]:
        return registry.built_in(family) if self.built_in else registry.entries(family)

    def _options(self, entry: registry.Entry, fields: dict[str, Schema], key: str) -> Schema:
        """Return the schema of a mapping that selects this plugin."""
        try:
            model = registry.options_model(registry.load(entry.family, entry.name, entry.family))
            prefix = f"{entry.family}.{entry.name}"
            schema = _without_titles(model.model_json_schema(ref_template=f"#/definitions/{prefix}.{{model}}"))
        except (MtlError, PydanticInvalidForJsonSchema, NameError, TypeError):
            return {}  # broken, or with an option that JSON cannot express: `mtl check` validates it
        for name, definition in schema.pop("$defs", {}).items():
            # Under the name of the plugin, because nested models of two plugins may have the same name.
            self.definitions[f"{prefix}.{name}"] = definition
        # `additionalProperties` counts only the properties beside it, so those of the section are repeated.
        allowed = dict.fromkeys((key, *fields), True) | schema.get("properties", {})
        rule: Schema = {"properties": allowed, "additionalProperties": False}
        return rule | ({"required": schema["required"]} if "required" in schema else {})

    def _define(self, name: str, schema: Schema) -> Schema:
        self.definitions[name] = schema
        return {"$ref": f"#/definitions/{name}"}


def _own_fields(model: type[Choice]) -> dict[str, Schema]:
    """Return the schemas of the core's own keys of a section, without the plugin's name and nested choices."""
    properties = _without_titles(model.model_json_schema(by_alias=True)["properties"])
    # Nested choices have schemas of their own, which `tasks` adds.
    skipped = (
        "name",
        "kind",
        *(key for key, field in model.model_fields.items() if field.annotation == HeadChoice | None),
    )
    fields = {key: schema for key, schema in properties.items() if key not in skipped}
    for key, short in SHORT_FORMS.items():
        if key in fields:
            fields[key] = {"description": fields[key]["description"]} | _or_null(short)
    return fields


def _or_null(schema: Schema) -> Schema:
    # YAML reads an empty section, such as `training:`, as null.
    return {"anyOf": [schema, {"type": "null"}]}


def _without_titles(schema: Any) -> Any:
    """Drop the titles that pydantic derives from names."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Below `properties` the keys are names, and an option may be called "title".
    return {
        key: {name: _without_titles(below) for name, below in value.items()}
        if key in ("properties", "$defs")
        else _without_titles(value)
        for key, value in schema.items()
        if key != "title"
    }
