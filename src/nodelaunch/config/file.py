"""Reads configuration files: returns a checked `Config`, or raises all problems at once with file, line and column.

positions.py parses YAML, models.py and the drivers' models check single mappings, rules.py checks across mappings,
messages.py makes the messages.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nodelaunch.config import rules
from nodelaunch.config.advice import advise
from nodelaunch.config.messages import explain, kind, unknown_key
from nodelaunch.config.models import (
    DEFAULT_DRIVER,
    FAKE_DRIVER,
    FAKE_PREFIX,
    Config,
    Place,
    ProviderConfig,
    StoreConfig,
)
from nodelaunch.config.positions import Source, read_source
from nodelaunch.config.schema import schema_of
from nodelaunch.config.secrets import secret_places
from nodelaunch.config.spans import Remedy
from nodelaunch.errors import ConfigError, ConfigProblem, NodelaunchError

_STORE_KEYS = ("zookeeper-servers", "zookeeper-tls", "zookeeper-auth")
STORE_FILES = ("zookeeper-tls.cert", "zookeeper-tls.key", "zookeeper-tls.ca", "zookeeper-auth.password-file")
"""Keys that name a file which is read to connect to the store."""
ALL_FILES = (*STORE_FILES, "webapp.token-file")
_STORE_UNKNOWN = (
    "the store can't be determined from a broken file; correct the file, or name another one with --config: the keys"
    " about the store are enough"
)
_SECURE_KEYS = (*_STORE_KEYS, "diskimages")


class Registry(Protocol):
    """The source of the drivers' models."""

    @property
    def names(self) -> list[str]: ...

    def get(self, name: str) -> Any:
        """Return an object with a ``config_model``. Raises: NodelaunchError with a readable message."""


def examine(source: Source, drivers: Registry) -> Config | None:
    """Check the data of *source*, and add problems and their remedies to it; return the configuration, or None if it is
    invalid."""
    config = _Checker(source, drivers).check() if source.data is not None else None
    return None if source.problems else config


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration with the positions of its values."""

    config: Config
    warnings: tuple[ConfigProblem, ...]
    source: Source
    """Its places use the current names of keys."""


def load_config(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: Registry,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, tuple[ConfigProblem, ...]]:
    """Return the configuration in *path* merged with *secure*, and warnings about deprecated or doubtful values.

    ``%(NODEPOOL_X)`` is replaced by that variable of *environ* (None: the process's) before the YAML is read. Files
    that the configuration names are not opened. Raises: ConfigError with every problem found.
    """
    loaded = load_with_places(path, secure=secure, drivers=drivers, environ=environ)
    return loaded.config, loaded.warnings


def load_with_places(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: Registry,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Do as `load_config`, and return the position of each value too. Raises: ConfigError."""
    source = _read_both(path, secure, environ)
    config = examine(source, drivers)
    if config is None:
        raise ConfigError(_in_order(source.problems))
    return Loaded(config, _in_order(source.warnings), source)


def load_store_config(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> StoreConfig:
    """Return the store part of the configuration. The rest may have errors, even in its YAML, and name unknown drivers.

    Raises: ConfigError with every problem of that part, and those of the YAML if that part can't be separated.
    """
    source = _read_for_store(path, secure, environ)
    config = _Checker(source).check_store() if source.data is not None else None
    if config is None or source.problems:
        problems = _in_order(source.problems)
        if source.data is None and source.text:
            problems = (*problems, ConfigProblem(source.path, 0, 0, _STORE_UNKNOWN, key=source.path))
        raise ConfigError(problems)
    return config


def check_files(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    keys: Sequence[str] = ALL_FILES,
) -> tuple[ConfigProblem, ...]:
    """Return a problem for each file that a valid configuration names at *keys* and that can't be read, at its key."""
    source = (_read_both if "webapp.token-file" in keys else _read_for_store)(path, secure, environ)
    for pattern in keys:
        for place, name in rules.find(source.data, pattern):
            try:
                Path(name).read_bytes()
            except OSError as error:
                shown = "the file" if source.is_hidden(place) else name
                source.complain(place, f"{place[-1]}: {shown} can't be read: {error.strerror or error}")
    return _in_order(source.problems)


def position_of(
    path: str | os.PathLike[str],
    place: Place,
    *,
    secure: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, int]:
    """Return line and column of *place* in *path*, or in *secure* if that file sets it; (0, 0) if it is in neither."""
    source = _read_for_store(path, secure, environ)
    return source.values[place][1:] if place in source.values else (0, 0)


def _read_for_store(
    path: str | os.PathLike[str], secure: str | os.PathLike[str] | None, environ: Mapping[str, str] | None
) -> Source:
    """Read both files; if they are broken, only the store part of the first one, if it can be separated."""
    source = _read_both(path, secure, environ)
    if not source.problems:
        return source
    part = _read_both(path, secure, environ, only=_keys_of(StoreConfig))
    return source if part.problems else part


def _read_both(
    path: str | os.PathLike[str],
    secure: str | os.PathLike[str] | None,
    environ: Mapping[str, str] | None,
    *,
    only: Collection[str] | None = None,
) -> Source:
    variables = os.environ if environ is None else environ
    source = read_source(os.fspath(path), variables, only=only)
    take_over(source, secure, variables)
    return source


def take_over(source: Source, secure: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> None:
    """Merge the file *secure* into *source*."""
    if secure is not None:
        _merge_secure(source, read_source(os.fspath(secure), environ, is_secret=True))


def _in_order(problems: Iterable[ConfigProblem]) -> tuple[ConfigProblem, ...]:
    return tuple(sorted(set(problems), key=lambda one: (one.file, one.line, one.column, one.message)))


# -- the secure file ------------------------------------------------------------------------------------------------


def _merge_secure(main: Source, secure: Source) -> None:
    """Merge the values that a secure file may set: the ZooKeeper connection, and images' environment."""
    main.problems += secure.problems
    if main.data is None or secure.data is None:
        main.data = None
        return
    allowed = ", ".join(_SECURE_KEYS)
    for key in secure.data:
        if key not in _SECURE_KEYS:
            where = secure.position((key,), of_key=True)
            main.complain_at(where, f"this key can't be set in a secure file; allowed: {allowed}")
    for key in _STORE_KEYS:
        if key in secure.data:
            main.data[key] = secure.data[key]
            main.graft(secure, (key,), (key,))
    images = secure.data.get("diskimages", [])
    if not isinstance(images, list):
        main.complain_at(secure.position(("diskimages",)), "diskimages: a list is expected")
        return
    for index, image in enumerate(images):
        _merge_image(main, secure, ("diskimages", index), image)


def _merge_image(main: Source, secure: Source, place: Place, image: Any) -> None:
    """Add the ``env-vars`` of a secure file's *image* to those of the same image in the main file."""
    if not isinstance(image, dict) or image.keys() != {"name", "env-vars"}:
        main.complain_at(secure.position(place), "a diskimage in a secure file may have only name and env-vars")
        return
    known = [(at, other) for at, other in rules.find(main.data, "diskimages[]") if isinstance(other, dict)]
    target = next((found for found in known if found[1].get("name") == image["name"]), None)
    if target is None:
        main.complain_at(secure.position((*place, "name")), "the main file defines no diskimage of this name")
        return
    at, other = target
    added = image["env-vars"]
    if isinstance(added, dict) and isinstance(other.setdefault("env-vars", {}), dict):
        other["env-vars"].update(added)
        for key in added:
            main.graft(secure, (*place, "env-vars", key), (*at, "env-vars", key))
    elif not isinstance(added, dict):
        main.complain_at(secure.position((*place, "env-vars")), "env-vars: a mapping of keys and values is expected")


# -- checking -------------------------------------------------------------------------------------------------------


class _Checker:
    """Checks the data of one source against the models, then the rules across it."""

    def __init__(self, source: Source, drivers: Registry | None = None) -> None:
        """*drivers*: may be None for `check_store`."""
        self.source = source
        self.data: dict[str, Any] = source.data or {}
        self.drivers = drivers
        self.offered: set[str] | None = set()
        """The labels that the pools offer; None if they can't be determined."""

    def check(self) -> Config | None:
        """Return the configuration; with errors: None, or a configuration with problems in the source."""
        self._drop_empty_lists()
        self._use_new_names(Config, (), self.data)
        providers = self._providers()
        config: Config | None = self._validate(Config, {**self.data, "providers": []}, ())
        self._check_across()
        return config and config.model_copy(update={"providers": tuple(providers)})

    def check_store(self) -> StoreConfig | None:
        """Return the store part; with errors: None, or a configuration with problems in the source."""
        self._drop_empty_lists()
        data = {key: self.data[key] for key in _keys_of(StoreConfig) if key in self.data}
        config: StoreConfig | None = self._validate(StoreConfig, data, ())
        rules.check_unique(self.source, StoreConfig.must_differ, (), data)
        rules.check_store(self.source, data)
        return config

    def _drop_empty_lists(self) -> None:
        """Treat ``labels:`` without a value as no labels, as Nodepool does, with a warning."""
        for name, info in Config.model_fields.items():
            key = info.alias or name
            if get_origin(info.annotation) is tuple and key in self.data and self.data[key] is None:
                message = f"{key} has no value; leave the key out, or write []"
                self.source.warn((key,), message, of_key=True, remedy=Remedy("drop", (key,)))
                del self.data[key]

    def _check_across(self) -> None:
        rules.check_unique(self.source, Config.must_differ, (), self.data)
        rules.check_references(self.source, Config.must_exist, (), self.data)
        rules.check_parents(self.source)
        rules.check_store(self.source, self.data)
        advise(self.source, self.data, self.offered)

    # -- providers --------------------------------------------------------------------------------------------------

    def _providers(self) -> list[ProviderConfig]:
        raw = self.data.get("providers", [])
        if not isinstance(raw, list):
            found = self._found(("providers",), raw)
            self.source.complain(("providers",), f"providers: a list is expected, found {found}")
            return []
        checked = (self._provider(("providers", index), item) for index, item in enumerate(raw))
        return [provider for provider in checked if provider is not None]

    def _provider(self, place: Place, item: Any) -> ProviderConfig | None:
        model = self._model_of(place, item) if isinstance(item, dict) else None
        if model is None:
            self.offered = None
            if not isinstance(item, dict):
                found = self._found(place, item)
                self.source.complain(place, f"a provider is a mapping of keys and values, found {found}")
            return None
        self._use_new_names(model, place, item)
        provider: ProviderConfig | None = self._validate(model, item, place)
        rules.check_unique(self.source, model.must_differ, place, item)
        rules.check_alike(self.source, model.must_agree, place, item)
        rules.check_references(self.source, model.must_exist, place, item)
        rules.check_abstract_images(self.source, model.must_exist, place, item)
        if self.offered is not None:
            self.offered |= rules.offered_labels(model.must_exist, item)
        return provider

    def _model_of(self, place: Place, item: dict[str, Any]) -> type[ProviderConfig] | None:
        """Return the model of the driver that *item* names; without a name, put the default driver into *item*."""
        name, driver = item.get("name"), item.get("driver")
        excuse = ""
        if "driver" not in item:
            is_fake = isinstance(name, str) and name.startswith(FAKE_PREFIX)
            driver = item["driver"] = FAKE_DRIVER if is_fake else DEFAULT_DRIVER
            excuse = f"no driver is named, which means {driver}"
        if not isinstance(driver, str):
            found = self._found((*place, "driver"), driver)
            self.source.complain((*place, "driver"), f"driver: the name of a driver is expected, found {found}")
            return None
        assert self.drivers is not None  # noqa: S101
        try:
            plugin = self.drivers.get(driver)
            narrowed = getattr(plugin, "model_for", None)
            model: type[ProviderConfig] = plugin.config_model if narrowed is None else narrowed(item)
        except NodelaunchError as error:
            at = (*place, getattr(error, "key", "driver"))
            text = f"unknown driver; installed: {', '.join(self.drivers.names)}"
            text = text if self.source.is_hidden(at) else str(error)
            is_foreign = driver not in self.drivers.names and "/" not in driver
            remedy = Remedy("drop", place) if is_foreign else None
            self.source.complain(at, f"{excuse}; {text}" if excuse else text, remedy=remedy)
            return None
        if excuse:
            remedy = Remedy("set", (*place, "driver"), driver)
            self.source.warn(place, f"{excuse}; write driver: {driver}", remedy=remedy)
        return model

    def _found(self, place: Place, value: Any) -> str:
        return "something else" if self.source.is_hidden(place) else kind(value)

    def _use_new_names(self, model: type[Config | ProviderConfig], place: Place, data: Any) -> None:
        """Replace old names of keys in *data*, each with a warning."""
        for pattern, new in model.old_names.items():
            outer, _, old = pattern.rpartition(".")
            for at, mapping in rules.find(data, outer, place):
                if not isinstance(mapping, dict) or old not in mapping:
                    continue
                if new in mapping:
                    message, remedy = f"{old} and {new} are the same; leave {old} out", Remedy("drop", (*at, old))
                    self.source.complain((*at, old), message, of_key=True, remedy=remedy)
                    del mapping[old]
                    continue
                message, remedy = (
                    f"{old} is accepted, but the name of this key is {new}",
                    Remedy("rename", (*at, old), new),
                )
                self.source.warn((*at, old), message, of_key=True, remedy=remedy)
                mapping[new] = mapping.pop(old)
                self.source.rename((*at, old), (*at, new))

    # -- single models ----------------------------------------------------------------------------------------------

    def _validate(self, model: type[Any], data: Any, place: Place) -> Any:
        try:
            return model.model_validate(data, by_alias=True, by_name=False)
        except ValidationError as error:
            self.source.hidden.update((*place, *at) for at in _secrets_in(model, data))
            for complaint in error.errors(include_url=False):
                self._explain(model, place, complaint)
            return None

    def _explain(self, model: type[BaseModel], place: Place, complaint: Any) -> None:
        """Add a problem for one validation error of a model, at its place."""
        at: Place = (*place, *complaint["loc"])
        match complaint["type"]:
            case "too_short" if len(complaint["input"]) >= complaint["ctx"]["min_length"]:
                pass  # one of its items is wrong, and is reported itself
            case "extra_forbidden":
                steps = [step for step in complaint["loc"][:-1] if isinstance(step, str)]
                line = _models_on_the_way(model, steps)
                home = _home_of(str(at[-1]), line, steps)
                is_hidden = at in self.source.hidden_keys or self.source.is_elsewhere(at)
                text = unknown_key(str(at[-1]), _keys_of(line[-1]), home=home, is_hidden=is_hidden)
                self.source.complain(at, text, of_key=True, remedy=Remedy("drop", at))
            case "missing":
                self.source.complain(at[:-1], f"the key {at[-1]!r} is missing")
            case _:
                at = self._in_file(at)
                key_place = next((at[:end] for end in range(len(at), 0, -1) if isinstance(at[end - 1], str)), ())
                key = str(key_place[-1]) if key_place and key_place not in self.source.hidden_keys else None
                self.source.complain(at, explain(complaint, key, is_hidden=self.source.is_hidden(at)))

    def _in_file(self, place: Place) -> Place:
        """Return *place* without parts that are not in the file: names that pydantic adds for the kinds of a union."""
        found: Place = ()
        for step in place:
            if (*found, step) in self.source.values:
                found = (*found, step)
        return found or place


def _secrets_in(model: type[BaseModel], data: Any) -> Iterator[Place]:
    """Yield the places of secrets in *data*."""
    yield from secret_places(schema_of(model), data)


# -- looking into models --------------------------------------------------------------------------------------------


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _models_below(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the model of each key that has a model."""
    found = {info.alias or name: next(_models_in(info.annotation), None) for name, info in model.model_fields.items()}
    return {key: inner for key, inner in found.items() if inner is not None}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _models_on_the_way(model: type[BaseModel], keys: Iterable[str]) -> list[type[BaseModel]]:
    """Return *model* and the models of the mappings along *keys* below it."""
    line = [model]
    for key in keys:
        line.append(_models_below(line[-1]).get(key, BaseModel))
    return line


def _home_of(key: str, line: Sequence[type[BaseModel]], keys: Sequence[str]) -> str | None:
    """Return where *key*, unknown to the last model of *line*, is allowed: one level below, or further up."""
    for below, model in _models_below(line[-1]).items():
        if key in _keys_of(model):
            return f"below {below!r}"
    above = [step for step, model in zip(keys, line, strict=False) if key in _keys_of(model)]
    return f"further up, beside {above[-1]!r}" if above else None
