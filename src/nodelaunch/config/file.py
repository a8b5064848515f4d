"""Reads configuration files: YAML in, a checked `Config` out, or every problem at once with its file, line and column.

YAML is read as Nodepool's reader does (version 1.1: ``yes`` is true), into plain data beside which the position of each
key and value is kept; the models check the data, and their complaints are put into words and places here. Values that
came from the secure file or the environment are never repeated in a message.
What does *not* belong here: what is allowed in one mapping (models.py).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.errors import ConfigError, ConfigProblem, NodelaunchError

Place = tuple[str | int, ...]
Position = tuple[str, int, int]
"""File, line, column; the latter two count from 1."""

ENVIRONMENT_PREFIX = "NODEPOOL_"
_TOKEN = re.compile(r"%\((NODEPOOL_\w+)\)(s?)")
_SECURE_KEYS = ("zookeeper-servers", "zookeeper-tls", "diskimages")
_LEGACY_KEYS = {"ssh-port": "connection-port"}
MAX_DEPTH = 50
"""Nesting of a configuration; a deeper one is a mistake, or an attack by aliases."""


class Registry(Protocol):
    """Where the models of drivers come from."""

    @property
    def names(self) -> list[str]: ...

    def get(self, name: str) -> Any:
        """Something with a ``config_model``. Raises: NodelaunchError with a message for people."""


@dataclass
class Source:
    """One YAML file as plain data, with the position of everything in it."""

    path: str
    data: Any = None
    values: dict[Place, Position] = field(default_factory=dict)
    keys: dict[Place, Position] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    is_secret: bool = False

    def complain(self, position: Position | None, message: str) -> None:
        file, line, column = position or (self.path, 0, 0)
        self.problems.append(ConfigProblem(file, line, column, message))

    def position(self, place: Place, *, of_key: bool = False) -> Position:
        """Where *place* is written, or the nearest thing around it that is."""
        if of_key and place in self.keys:
            return self.keys[place]
        while place and place not in self.values:
            place = place[:-1]
        return self.values.get(place, (self.path, 1, 1))


def load_config(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: Registry,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, tuple[ConfigProblem, ...]]:
    """The configuration in *path*, with what *secure* adds, and warnings about deprecated or doubtful spellings.

    ``%(NODEPOOL_X)`` is replaced by that variable of *environ* before the YAML is read.
    Raises: ConfigError with every problem found.
    """
    variables = os.environ if environ is None else environ
    source = read_source(os.fspath(path), variables)
    if secure is not None:
        _merge_secure(source, read_source(os.fspath(secure), variables, is_secret=True))
    if source.data is None:
        raise ConfigError(sorted(source.problems, key=_by_position))
    warnings: list[ConfigProblem] = []
    config = _Checker(source, drivers, warnings).check()
    if config is None or source.problems:
        raise ConfigError(sorted(set(source.problems), key=_by_position))
    return config, tuple(sorted(warnings, key=_by_position))


def position_of(path: str, place: Place, *, environ: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Line and column of *place* in file *path*; (0, 0) where it is not in it."""
    source = read_source(path, os.environ if environ is None else environ)
    return source.values[place][1:] if place in source.values else (0, 0)


def _by_position(problem: ConfigProblem) -> tuple[str, int, int, str]:
    return (problem.file, problem.line, problem.column, problem.message)


# -- text -----------------------------------------------------------------------------------------------------------


def read_source(path: str, environ: Mapping[str, str], *, is_secret: bool = False) -> Source:
    """The YAML file *path* as data and positions; ``data`` is None where it can't be read, ``problems`` say why."""
    source = Source(path, is_secret=is_secret)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        source.complain(None, f"can't be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        source.complain(None, f"is not UTF-8 text (byte {error.start})")
    else:
        text, shifts = _substitute(source, text, environ)
        _parse(source, text, shifts)
    return source


@dataclass(frozen=True)
class _Shift:
    """On one line (from 1), text from *column* on (from 1, after substitution) was moved right by *by*."""

    line: int
    column: int
    by: int


def _substitute(source: Source, text: str, environ: Mapping[str, str]) -> tuple[str, list[_Shift]]:
    """*text* with variables put in, line by line, and how that moved the columns."""
    shifts: list[_Shift] = []
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        done, moved = "", 0
        rest_from = 0
        for match in _TOKEN.finditer(line):
            value = _variable(source, number, match, environ)
            done += line[rest_from : match.start()] + value
            moved += len(value) - len(match.group(0))
            shifts.append(_Shift(number, len(done) + 1, moved))
            rest_from = match.end()
        lines.append(done + line[rest_from:])
    return "\n".join(lines), shifts


def _variable(source: Source, line: int, match: re.Match[str], environ: Mapping[str, str]) -> str:
    name, stray = match.groups()
    here = (source.path, line, match.start() + 1)
    if stray:
        source.complain(here, f"write %({name}) without the s behind it, which would become part of the value")
    if name not in environ:
        source.complain(here, f"environment variable {name} is not set")
        return ""
    if "\n" in environ[name]:
        source.complain(here, f"environment variable {name} has a line break in it")
        return ""
    return environ[name]


# -- YAML -----------------------------------------------------------------------------------------------------------


def _parse(source: Source, text: str, shifts: list[_Shift]) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    by_line: dict[int, list[_Shift]] = {}
    for shift in shifts:
        by_line.setdefault(shift.line, []).append(shift)

    def position(mark: Any) -> Position:
        line, column = mark.line + 1, mark.column + 1
        moved = [shift.by for shift in by_line.get(line, []) if column >= shift.column]
        return (source.path, line, column - (moved[-1] if moved else 0))

    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        source.complain(position(mark) if mark else None, f"broken YAML: {error.problem}{context}")
        return
    except ReaderError as error:
        source.complain(None, f"broken YAML: character {error.character!r} is not allowed")
        return
    except (YAMLError, ValueError, RecursionError) as error:
        source.complain(None, f"broken YAML: {error}")
        return
    if node is None:
        if source.is_secret:
            source.data = {}
        else:
            source.complain(None, "the file is empty; at least labels and providers are expected")
        return
    if not isinstance(node, MappingNode):
        source.complain(position(node.start_mark), "a mapping of keys such as labels: and providers: is expected here")
        return
    source.data = _Builder(source, yaml.constructor, position).build(node, ())


class _Builder:
    """Turns YAML nodes into plain data and notes where each key and value stands."""

    def __init__(self, source: Source, constructor: Any, position: Callable[[Any], Position]) -> None:
        self.source = source
        self.constructor = constructor
        self.position = position

    def build(self, node: Node, place: Place) -> Any:
        self.source.values[place] = self.position(node.start_mark)
        if len(place) > MAX_DEPTH:
            self.source.complain(self.position(node.start_mark), f"nested deeper than {MAX_DEPTH} levels")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: Node) -> Any:
        try:
            return self.constructor.construct_object(node, deep=True)
        except (ConstructorError, ValueError) as error:
            problem = error.problem if isinstance(error, ConstructorError) else error
            self.source.complain(self.position(node.start_mark), f"broken YAML: {problem}")
            return None

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged |= self._merge(value_node, place)
                continue
            key = self._scalar(key_node) if isinstance(key_node, ScalarNode) else None
            here = self.position(key_node.start_mark)
            if not isinstance(key, str):
                self.source.complain(here, "a key must be text" + ("" if key is None else f"; write it as '{key}'"))
                continue
            if key in own:
                first = self.source.keys[*place, key][1]
                self.source.complain(here, f"key {key!r} is there twice (first in line {first})")
            own[key] = self.build(value_node, (*place, key))
            self.source.keys[*place, key] = here
        return merged | own

    def _merge(self, node: Node, place: Place) -> dict[str, Any]:
        """The mapping, or mappings, that ``<<`` names; earlier ones win."""
        result: dict[str, Any] = {}
        for item in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(item, MappingNode):
                self.source.complain(self.position(item.start_mark), "<< needs a mapping, or a list of mappings")
                continue
            result = self._mapping(item, place) | result
        return result


# -- the secure file ------------------------------------------------------------------------------------------------


def _merge_secure(main: Source, secure: Source) -> None:
    """Take over what the secure file may set: the ZooKeeper connection, and images' environment."""
    main.problems += secure.problems
    if main.data is None or secure.data is None:
        main.data = None
        return
    for key in secure.data:
        if key not in _SECURE_KEYS:
            main.complain(secure.position((key,), of_key=True), f"a secure file may set {', '.join(_SECURE_KEYS)} only")
    for key in ("zookeeper-servers", "zookeeper-tls"):
        if key in secure.data:
            main.data[key] = secure.data[key]
            _replant(main, secure, (key,), (key,))
    images = secure.data.get("diskimages") or []
    for index, image in enumerate(images if isinstance(images, list) else []):
        _merge_image(main, secure, index, image)


def _merge_image(main: Source, secure: Source, index: int, image: Any) -> None:
    place: Place = ("diskimages", index)
    known = main.data.get("diskimages") or []
    name = image.get("name") if isinstance(image, dict) else None
    for number, other in enumerate(known if isinstance(known, list) else []):
        if isinstance(other, dict) and other.get("name") == name and isinstance(image.get("env-vars"), dict):
            other.setdefault("env-vars", {}).update(image["env-vars"])
            _replant(main, secure, (*place, "env-vars"), ("diskimages", number, "env-vars"))
            return
    main.complain(secure.position(place), "name and env-vars of a diskimage that the main file defines are expected")


def _replant(main: Source, secure: Source, old: Place, new: Place) -> None:
    """Note the positions below *old* of the secure file as those below *new*."""
    for table, other in ((main.values, secure.values), (main.keys, secure.keys)):
        for place, position in other.items():
            if place[: len(old)] == old:
                table[*new, *place[len(old) :]] = position


# -- checking -------------------------------------------------------------------------------------------------------


class _Checker:
    """Checks the data of one source against the models, then across."""

    def __init__(self, source: Source, drivers: Registry, warnings: list[ConfigProblem]) -> None:
        self.source = source
        self.data: dict[str, Any] = source.data
        self.drivers = drivers
        self.warnings = warnings

    def warn(self, place: Place, message: str, *, of_key: bool = False) -> None:
        self.warnings.append(ConfigProblem(*self.source.position(place, of_key=of_key), message))

    def complain(self, place: Place, message: str, *, of_key: bool = False) -> None:
        self.source.complain(self.source.position(place, of_key=of_key), message)

    def check(self) -> Config | None:
        providers = self._providers()
        rest = {key: value for key, value in self.data.items() if key != "providers"}
        webapp = rest.get("webapp")
        if isinstance(webapp, dict) and "listen-address" in webapp:
            rest["webapp"] = {("listen_address" if k == "listen-address" else k): v for k, v in webapp.items()}
        self._cross_check()
        config = self._validate(Config, rest, ())
        if config is None:
            return None
        for place, provider in providers:
            self._check_provider(place, provider)
        checked: Config = config
        return checked.model_copy(update={"providers": tuple(provider for _, provider in providers)})

    # -- single models ----------------------------------------------------------------------------------------------

    def _providers(self) -> list[tuple[Place, ProviderConfig]]:
        raw = self.data.get("providers")
        if raw is None and "providers" in self.data:
            self.complain(("providers",), "a list of providers is expected, found nothing", of_key=True)
        if raw is not None and not isinstance(raw, list):
            self.complain(("providers",), f"a list of providers is expected, found {_kind(raw)}")
        found: list[tuple[Place, ProviderConfig]] = []
        for index, item in enumerate(raw if isinstance(raw, list) else []):
            place: Place = ("providers", index)
            if not isinstance(item, dict):
                self.complain(place, f"a mapping is expected, found {_kind(item)}")
                continue
            provider = self._provider(place, item)
            if provider is not None:
                found.append((place, provider))
        return found

    def _provider(self, place: Place, item: dict[str, Any]) -> ProviderConfig | None:
        name, driver = item.get("name"), item.get("driver")
        if driver is None:
            is_fake = isinstance(name, str) and name.startswith("fake")
            driver = "fake" if is_fake else "openstack"
            if is_fake:
                self.warn(place, f"provider {name!r} gets the fake driver for its name only; write driver: fake")
        if not isinstance(driver, str):
            self.complain((*place, "driver"), f"the name of a driver is expected, found {_kind(driver)}")
            return None
        try:
            model = self.drivers.get(driver).config_model
        except NodelaunchError as error:
            self.complain((*place, "driver"), str(error))
            return None
        provider: ProviderConfig | None = self._validate(model, self._modern(place, {**item, "driver": driver}), place)
        return provider

    def _modern(self, place: Place, value: Any) -> Any:
        """*value* with outdated spellings of static nodes replaced, each with a warning."""
        for p, pool in enumerate(_list(value.get("pools"))):
            for n, node in enumerate(_list(pool.get("nodes")) if isinstance(pool, dict) else []):
                for old, new in _LEGACY_KEYS.items():
                    if isinstance(node, dict) and old in node and new not in node:
                        here = (*place, "pools", p, "nodes", n)
                        self.warn((*here, old), f"{old} is the old name of {new}", of_key=True)
                        self.source.values[*here, new] = self.source.position((*here, old))
                        node[new] = node.pop(old)
        return value

    def _validate(self, model: type[Any], data: Any, place: Place) -> Any:
        try:
            return model.model_validate(_tuples(data))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._explain(model, place, detail)
            return None

    def _explain(self, model: type[BaseModel], place: Place, detail: Any) -> None:
        """Put one complaint of a model into words, at its place."""
        steps = [step for step in detail["loc"] if not isinstance(step, str) or not _is_branch(step)]
        at: Place = (*place, *steps)
        match detail["type"]:
            case "extra_forbidden":
                allowed = sorted(_allowed_keys(model, at[len(place) : -1]))
                self.complain(at, unknown_key(str(at[-1]), allowed), of_key=True)
            case "missing":
                self.complain(at[:-1], f"{at[-1]} is missing")
            case _:
                self.complain(at, self._wording(at, detail))

    def _wording(self, at: Place, detail: Any) -> str:
        kind, context = detail["type"], detail.get("ctx", {})
        key = next((step for step in reversed(at) if isinstance(step, str)), "the file")
        if wanted := _EXPECTED.get(kind):
            secret = self.source.is_secret or self.source.position(at)[0] != self.source.path
            found = "something else" if secret else _kind(detail["input"])
            hint = _hint(kind, detail["input"])
            return f"{key}: {wanted} is expected, found {found}{hint}"
        if kind in _BOUNDS:
            return f"{key}: must be {_BOUNDS[kind]} {next(iter(context.values()))}, found {detail['input']}"
        if kind == "literal_error":
            return f"{key}: must be one of {context['expected']}, found {_kind(detail['input'])}"
        if kind == "string_too_short":
            return f"{key}: must not be empty"
        return f"{key}: {detail['msg']}"

    # -- across the file --------------------------------------------------------------------------------------------

    def _cross_check(self) -> None:
        self._unique(("labels",), "name", "label")
        self._unique(("providers",), "name", "provider")
        self._unique(("diskimages",), "name", "diskimage")
        self._unique(("tenant-resource-limits",), "tenant-name", "tenant")
        for index, provider in enumerate(_list(self.data.get("providers"))):
            if isinstance(provider, dict):
                self._unique(("providers", index, "pools"), "name", "pool")
        self._check_parents()
        self._check_chroots()

    def _at(self, place: Place) -> Any:
        value: Any = self.data
        for step in place:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int):
                value = value[step]
            else:
                return None
        return value

    def _unique(self, place: Place, key: str, what: str) -> None:
        first: dict[Any, Position] = {}
        for index, item in enumerate(_list(self._at(place))):
            name = item.get(key) if isinstance(item, dict) else None
            if not isinstance(name, str):
                continue
            here = self.source.position((*place, index, key))
            if name in first:
                self.source.complain(here, f"{what} {name!r} is there twice (first in line {first[name][1]})")
            first.setdefault(name, here)

    def _check_parents(self) -> None:
        images = [item for item in _list(self.data.get("diskimages")) if isinstance(item, dict)]
        parents = {image.get("name"): image.get("parent") for image in images}
        for index, image in enumerate(_list(self.data.get("diskimages"))):
            parent = image.get("parent") if isinstance(image, dict) else None
            if not isinstance(parent, str):
                continue
            place: Place = ("diskimages", index, "parent")
            if parent not in parents:
                self.complain(place, _unknown("diskimage", parent, [n for n in parents if isinstance(n, str)]))
                continue
            line = [image.get("name")]
            while isinstance(parent, str) and parent not in line:
                line.append(parent)
                parent = parents.get(parent)
            if isinstance(parent, str):
                self.complain(place, "the image is its own ancestor: " + " -> ".join([*map(str, line), parent]))

    def _check_chroots(self) -> None:
        servers = _list(self.data.get("zookeeper-servers"))
        chroots = [str(server.get("chroot") or "").strip("/") for server in servers if isinstance(server, dict)]
        named = {chroot for chroot in chroots if chroot}
        if len(named) > 1:
            index = next(i for i, chroot in enumerate(chroots) if chroot and chroot != chroots[0])
            text = "all servers share one chroot; found " + " and ".join(repr("/" + name) for name in sorted(named))
            self.complain(("zookeeper-servers", index, "chroot"), text)

    def _check_provider(self, place: Place, provider: ProviderConfig) -> None:
        labels = [item.get("name") for item in _list(self.data.get("labels")) if isinstance(item, dict)]
        images = [item.get("name") for item in _list(self.data.get("diskimages")) if isinstance(item, dict)]
        for index, pool in enumerate(provider.pools):
            for inner, label in pool.label_places:
                if label not in labels:
                    where = (*place, "pools", index, *inner)
                    self.complain(where, _unknown("label", label, [n for n in labels if isinstance(n, str)]))
        for index, image in enumerate(getattr(provider, "diskimages", ())):
            if image.name not in images:
                where = (*place, "diskimages", index, "name")
                self.complain(where, _unknown("diskimage", image.name, [n for n in images if isinstance(n, str)]))
        problems: Callable[[], Iterable[tuple[Place, str]]] = getattr(provider, "problems", list)
        for inner, text in problems():
            self.complain((*place, *inner), text)


# -- words ----------------------------------------------------------------------------------------------------------

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "float_parsing": "a number",
}
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
    "too_short": "a list of at least",
}


def _is_branch(step: str) -> bool:
    """Whether a step of a complaint's place names a branch of a type rather than a key."""
    return step in ("int", "float", "str") or step.startswith(("constrained-", "function-", "lax-or-strict"))


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str():
            return f"text {value!r:.60}"
        case _:
            return f"{value!r:.60}"


def _hint(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return " (put it in quotes)"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return " (write it without quotes)"
    return ""


def unknown_key(key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key {key!r}; {hint}allowed: {', '.join(allowed)}"


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(sorted(known)) or "none"
    return f"{what} {name!r} is not defined under {what}s:; {hint}defined: {listed}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tuples(value: Any) -> Any:
    """*value* with its lists as tuples, which strict models take."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _allowed_keys(model: type[BaseModel], place: Place) -> set[str]:
    """The keys allowed in the mapping at *place* below *model*."""
    for step in place:
        if isinstance(step, str):
            inner = next((f for n, f in model.model_fields.items() if step in (n, f.alias)), None)
            found = next(_models_in(inner.annotation), None) if inner is not None else None
            if found is None:
                return set()
            model = found
    return {info.alias or name for name, info in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, list, dict) or get_args(annotation):
        for argument in get_args(annotation):
            yield from _models_in(argument)
