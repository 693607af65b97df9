"""YAML files, read and checked against a model; each mistake becomes one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from materials.errors import CampaignError

Model = TypeVar("Model", bound=BaseModel)
SHOWN = 200  # characters of what was found, in a message
LARGEST = 2**63  # integers that a database can hold
_NO_TEXT = re.compile("[\ud800-\udfff\0]")  # halves of characters, and what ends a text to a database


def check(model: type[Model], content: Any, where: str) -> Model:
    """Check content against its model, and word the first mistakes for a person.

    Raises:
        CampaignError: One line for each mistake: where, which key, what was found, what to do.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # The members of a union each complain; what a user wrote is only one of them, and comes first.
        lines = [_sentence(model, dict(e)) for e in error.errors(include_url=False)]
        unique = list(dict.fromkeys(lines))
        raise CampaignError("\n".join(f"{where}: {line}" for line in unique[:5])) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys and values.

    Raises:
        CampaignError: It is not there, or not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise CampaignError(f"{path}: no such file{hint}") from None
    except (OSError, ValueError) as error:  # the latter for what is no text, and for a path that no file can have
        raise CampaignError(f"{str(path)[:SHOWN]!r}: cannot be read: {str(error)[:SHOWN]}") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeys)
    except RecursionError:
        raise CampaignError(f"{path}: not valid YAML: nested too deep to be read") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        found = ascii(chr(int(error.character)))
        raise CampaignError(f"{path}, {place}: not valid YAML: it may not hold the character {found}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise CampaignError(f"{path}{place}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise CampaignError(f"{path}: {found}; expected keys and values such as 'name: my-campaign'")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """YAML that does not let a second `name:` replace the first, nor read the elements No and Y as booleans.

    What a scalar cannot be made into is a mistake with a place: PyYAML lets whatever `int`, `float` or `datetime` raise
    through.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            kind = node.tag.rsplit(":", 1)[-1]
            problem = f"{str(node.value)[:40]!r} is no {kind}; quote it if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        if isinstance(value, int) and abs(value) >= LARGEST:
            problem = f"an integer of {len(str(node.value))} digits is too large"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(value, str) and _NO_TEXT.search(value):
            problem = "a text may hold neither NUL nor half a character (\\ud800 to \\udfff)"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    named = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    keys = [loader.construct_object(key, deep=True) for key in named]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            mark = named[index].start_mark
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands there twice", problem_mark=mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _sentence(model: type[BaseModel], error: dict[str, Any]) -> str:
    location: Sequence[str | int] = [part for part in error["loc"] if not _is_tag(part)]
    key = _dotted(location)
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys(model, error["loc"][:-1]), n=1, cutoff=0.6)
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else "remove it")
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "literal_error":
        expected = str(context.get("expected", ""))
        choices = [choice.strip(" '") for choice in expected.replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(found), choices, n=1, cutoff=0.5)
        what = "no chemical element" if "Og" in choices or "Xe" in choices else f"not one of {', '.join(choices)}"
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{key}: {_short(found)} is {what}{hint}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = str(context.get("expected_tags", "prototypes, substitution, files, materials_project, optimade"))
        kind_found = found.get("kind") if isinstance(found, dict) else found
        return f"{key}.kind: found {_short(kind_found)}; expected one of {expected}"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = "" if isinstance(found, dict | list | BaseModel) else f" (found {_short(found)})"
    return f"{key}: {message}{shown}" if key else message


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _is_tag(part: str | int) -> bool:
    tags = ("prototypes", "substitution", "files", "materials_project", "optimade")
    return isinstance(part, str) and (part in tags or part.startswith(("literal[", "list[", "function-")))


def _dotted(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Find the keys that stand where an unknown one was met, by walking the JSON schema."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def follow(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    node = follow(schema)
    for part in location:
        if isinstance(part, int):
            node = follow(node.get("items", {}))
        elif "discriminator" in node:
            node = follow({"$ref": node["discriminator"]["mapping"][part]})
        else:
            node = follow(node.get("properties", {}).get(part) or node.get("additionalProperties") or {})
    return list(node.get("properties", {}))
