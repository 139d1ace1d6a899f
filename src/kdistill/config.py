"""YAML -> strict frozen models, dotted overrides, errors with "did you mean".

Every package keeps its own models in its `config.py`; this module only knows how to read them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kdistill.errors import ConfigError

#: A recipe is a page of text; anything larger is not one (and an alias bomb is stopped before it is expanded).
MAX_RECIPE_BYTES = 256 * 1024


class ConfigModel(BaseModel):
    """Base of all configuration: frozen, no unknown keys, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


M = TypeVar("M", bound=ConfigModel)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses aliases (no recipe needs them) and duplicate keys (the last would win silently)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return mapping


def _resolve_float(loader: type[yaml.SafeLoader]) -> None:
    """Let 3e-4 be a number: YAML 1.1 reads it as a string, and every recipe writes learning rates so."""
    import re

    loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


_resolve_float(_Loader)


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML with the safe loader.

    Raises:
        ConfigError: Not YAML, an alias, a duplicate key or a Python object tag; file and line are named.
    """
    if len(text.encode("utf-8", "replace")) > MAX_RECIPE_BYTES:
        raise ConfigError(f"larger than {MAX_RECIPE_BYTES} bytes", where=where, remedy="A recipe is a short YAML file.")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        raise ConfigError(problem, where=f"{where}{line}", remedy="Write plain YAML values.") from error
    except RecursionError as error:
        raise ConfigError("nested too deeply", where=where) from error


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `data` with dotted `key=value` overrides applied; values are YAML (`a.b=3e-4`, `a={kind: x}`).

    Raises:
        ConfigError: An override has no "=", an empty key, or goes through something that is no mapping.
    """
    result = json.loads(json.dumps(data))
    for override in overrides:
        key, equals, value = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise ConfigError(
                f"not an override: {override!r}", remedy="Write dotted.key=value, for example student.hidden_size=128"
            )
        target = result
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{part!r} holds a value, not a section", where=f"override {override}")
        target[path[-1]] = parse_yaml(value, where=f"override {key}")
    return result


def load_config(model: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Read a YAML file into a configuration model.

    Args:
        model: The ConfigModel to fill.
        path: The YAML file.
        overrides: Dotted `key=value` strings that win over the file.

    Raises:
        ConfigError: All problems at once, each with its key, and the nearest known key for an unknown one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    data = parse_yaml(text, where=path.name)
    if not isinstance(data, dict):
        raise ConfigError("is not a mapping of sections", where=path.name)
    return validate(model, apply_overrides(data, overrides), where=path.name)


def validate(model: type[M], data: Mapping[str, Any], *, where: str) -> M:
    """Validate plain data as `model`; problems become one ConfigError (at most 20 are listed)."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        # A list whose members are wrong is called too short as well: that would send a reader the wrong way.
        said = [item for item in found if item["type"] != "too_short" or not _has_inner(found, item["loc"])]
        problems = [_explain(model, item) for item in said[:20]]
        raise ConfigError("; ".join(problems), where=where) from error


def _has_inner(found: Sequence[Mapping[str, Any]], location: tuple[str | int, ...]) -> bool:
    return any(len(item["loc"]) > len(location) and item["loc"][: len(location)] == location for item in found)


def _explain(model: type[ConfigModel], item: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "extra_forbidden":
            known = sorted({name for found in _models_at(model, item["loc"][:-1]) for name in found.model_fields})
            return f"{key}: unknown key; {_nearest(str(item['loc'][-1]), known) or 'known keys: ' + ', '.join(known)}"
        case "union_tag_invalid" | "union_tag_not_found":
            return _explain_tag(model, item, key)
        case _:
            said = str(item["msg"]).removeprefix("Value error, ")  # the library's word for a check of ours
            return f"{key}: {said}" if key else said


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def _explain_tag(model: type[ConfigModel], item: Mapping[str, Any], key: str) -> str:
    """A `kind` that does not exist, or none at all, with all that do."""
    name, tag = str(item["ctx"]["discriminator"]).strip("'"), item["ctx"].get("tag")
    tags = [tag for found in _models_at(model, item["loc"]) for tag in _tags(found, name)]
    if tag is None:
        return f"{key}: has no {name}; one of {', '.join(tags)}"
    return f"{key}: there is no {name} {tag!r}; {_nearest(tag, tags)} One of {', '.join(tags)}".replace("  ", " ")


def _models_at(model: type[ConfigModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at `location`, through unions (whose tags appear in it), tuples and mappings."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [found for found in candidates if any(part in _tags(found, name) for name in found.model_fields)]
        if len(candidates) > 1 and tagged:
            candidates = tagged  # the union's member that the data chose
            continue
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            if part in candidate.model_fields:
                found = _alternatives(candidate.model_fields[str(part)].annotation)
                following += [one for one in found if isinstance(one, type) and issubclass(one, BaseModel)]
            else:
                following.append(candidate)  # an index, or the tag of a union of one: stays at the same model
        candidates = following
    return candidates


def _tags(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    """The values by which a union knows this member: those of a `Literal` field."""
    field = model.model_fields.get(name)
    return typing.get_args(field.annotation) if field and typing.get_origin(field.annotation) is typing.Literal else ()


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is None:
        return [annotation]
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(arguments[0])
    if origin in (typing.Union, types.UnionType, tuple, list, dict):
        return [found for argument in arguments if argument is not Ellipsis for found in _alternatives(argument)]
    return []


def config_hash(config: BaseModel | Mapping[str, Any]) -> str:
    """SHA-256 over the resolved configuration (canonical JSON): equal settings give equal hashes."""
    data = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def dump_yaml(config: BaseModel | Mapping[str, Any]) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal model."""
    data = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
