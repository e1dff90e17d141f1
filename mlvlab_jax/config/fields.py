"""What configuration classes are made of: `configclass`, plugin choices, and fields that do not change a result."""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, get_args

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import PluginTable, Spec, did_you_mean

C = TypeVar("C")
_PYDANTIC_KINDS = frozenset(get_args(core_schema.ErrorType))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def configclass(cls: type[C]) -> type[C]:
    """Makes a class a frozen, keyword-only, strictly typed dataclass that refuses unknown keys."""
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(cls)
    return made


#: Marks a field that changes how a run is watched or stored, never what it computes: it may differ on resume.
OPERATIONAL: dict[str, Any] = {"operational": True}


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(params: Any) -> TypeAdapter[Any]:
    if params not in _ADAPTERS:
        _ADAPTERS[params] = TypeAdapter(params)
    return _ADAPTERS[params]


def params_from(cls: type[C], values: dict[str, Any]) -> C:
    """`values` as an instance of the configclass `cls`, by the same strict rules as a YAML file."""
    instance: C = _adapter(cls).validate_json(json.dumps(values))
    return instance


def dump_params(instance: Any) -> dict[str, Any]:
    """An instance of a configclass as plain JSON values; `params_from` is the inverse."""
    tree: dict[str, Any] = _adapter(type(instance)).dump_python(instance, mode="json")
    return tree


def check_pattern(text: str) -> str:
    """`text` if it is a regular expression.

    Raises:
        ValueError: It is not, and why.
    """
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression, found {text!r} ({error})") from None
    return text


class PluginField:
    """Annotation of a `Spec` field: `{name, params}`, params checked by the dataclass that plugin registered.

    Args:
        table: What can be chosen.
        without: A name that cannot be chosen here, such as that of the plugin whose parameter the field is.
    """

    def __init__(self, table: PluginTable, *, without: str | None = None) -> None:
        self.table = table
        self._without = without

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Pydantic's hook: how to validate and to dump the field."""
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(self._dump)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic's hook: one alternative for each plugin."""
        return {"oneOf": [self._alternative(name, handler) for name in self.table.names() if name != self._without]}

    def _alternative(self, name: str, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        params = handler(_adapter(self.table.entry(name).params).core_schema)
        properties = {"name": {"const": name}, "params": params}
        return {"type": "object", "additionalProperties": False, "required": ["name"], "properties": properties}

    def _validate(self, value: Any) -> Spec:
        if isinstance(value, Spec):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise PydanticCustomError(
                "plugin",
                "expected {shape}, found {found}",
                {"shape": "{name: ..., params: {...}}", "found": repr(value)},
            )
        for key in value.keys() - {"name", "params"}:
            near = did_you_mean(key, [f.name for f in dataclasses.fields(self._entry(value["name"]).params)])
            hint = f"; {key!r} belongs under 'params'" if f"{key!r}" in near else ""
            raise PydanticCustomError("plugin", "unknown key '{key}'{hint}", {"key": key, "hint": hint})
        entry = self._entry(value["name"])
        try:
            return Spec(entry.name, params_from(entry.params, value.get("params") or {}))
        except ValidationError as error:
            raise _below("params", error) from None

    def _entry(self, name: str) -> Any:
        if name == self._without:
            raise PydanticCustomError("plugin_name", "{text}", {"text": f"{name!r} cannot be used inside itself"})
        try:
            return self.table.entry(name)
        except ConfigError as error:
            raise PydanticCustomError("plugin_name", "{text}", {"text": str(error)}) from None

    @staticmethod
    def _dump(spec: Spec) -> dict[str, Any]:
        return {"name": spec.name, "params": dump_params(spec.params)}


def _below(key: str, error: ValidationError) -> ValidationError:
    """The same findings, located under `key`; pydantic then adds the path of the field itself."""
    details = []
    for line in error.errors(include_url=False):
        kind = line["type"] if line["type"] in _PYDANTIC_KINDS else PydanticCustomError(line["type"], line["msg"])
        context = line.get("ctx", {})
        details.append(InitErrorDetails(type=kind, loc=(key, *line["loc"]), input=line["input"], ctx=context))
    return ValidationError.from_exception_data(error.title, details)


def default_spec(table: PluginTable, name: str) -> Callable[[], Spec]:
    """Factory of the plugin `name` with its default parameters."""
    return lambda: Spec(name, table.entry(name).params())
