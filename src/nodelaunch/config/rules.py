"""Checks the rules across the mappings of a configuration: values that have to differ, to agree or to exist.

The models declare them as `Unique`, `Alike` and `Reference`; all are checked on the plain data, so that a broken
mapping does not hide problems of another one. The models check single values and single mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nodelaunch.config.messages import undefined
from nodelaunch.config.models import TOP_DISKIMAGES, TOP_LABELS, Alike, Place, Reference, Unique
from nodelaunch.config.positions import Source


def find(data: Any, pattern: str, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield the values that *pattern* names in *data*, the value at *place*; none if the data has another shape."""
    if not pattern:
        yield place, data
        return
    step, _, rest = pattern.partition(".")
    key = step.removesuffix("[]")
    if not isinstance(data, dict) or key not in data:
        return
    for inner, value in _items(data[key]) if step != key else [((), data[key])]:
        yield from find(value, rest, (*place, key, *inner))


def _items(value: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the items of a list; a single text is a list of one item."""
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (index,), item


def check_unique(source: Source, rules: Iterable[Unique], place: Place, data: Any) -> None:
    """Report duplicates in *data*, the value at *place*."""
    for rule in rules:
        for scope_place, scope in find(data, rule.scope, place):
            _check_scope(source, rule, scope_place, scope)


def _check_scope(source: Source, rule: Unique, place: Place, scope: Any) -> None:
    first: dict[tuple[object, ...], Place] = {}
    for item_place, item in find(scope, rule.items, place):
        identity = _identity(rule, item)
        if identity is None:
            continue
        here = (*item_place, *rule.keys[:1])
        if identity in first:
            name = _in_words(source, rule, item_place, identity)
            source.complain(here, f"{name} is given twice; first in {source.position(first[identity]).in_words}")
        first.setdefault(identity, here)


def _identity(rule: Unique, item: Any) -> tuple[object, ...] | None:
    """Return the values that identify *item*; None if they are invalid, which the models report."""
    if not rule.keys:
        return (item,) if isinstance(item, str) else None
    if not isinstance(item, dict):
        return None
    values = tuple(item.get(key, rule.defaults.get(key)) for key in rule.keys)
    return values if all(isinstance(value, (str, int)) for value in values) else None


def _in_words(source: Source, rule: Unique, place: Place, identity: tuple[object, ...]) -> str:
    if any(source.is_hidden((*place, key)) for key in rule.keys) or (source.is_hidden(place) and not rule.keys):
        return f"this {rule.what}"
    if len(identity) == 1:
        return f"{rule.what} {identity[0]!r}"
    parts = ", ".join(f"{key} {value}" for key, value in zip(rule.keys, identity, strict=True))
    return f"{rule.what} with {parts}"


def check_alike(source: Source, rules: Iterable[Alike], place: Place, data: Any) -> None:
    """Report values that have to be equal in *data*, the value at *place*, and differ."""
    for rule in rules:
        first: dict[str, tuple[Place, dict[str, Any]]] = {}
        for at, item in find(data, rule.items, place):
            if not isinstance(item, dict) or not isinstance(shared := item.get(rule.by), str):
                continue
            before, model = first.setdefault(shared, (at, item))
            for key, default in rule.keys.items():
                if item.get(key, default) != model.get(key, default):
                    here = (*at, key if key in item else rule.by)
                    name = f"this {rule.by}" if source.is_hidden((*at, rule.by)) else f"{rule.by} {shared!r}"
                    where = source.position((*before, rule.by)).in_words
                    source.complain(
                        here, f"{key}: has to be the same for each entry with {name}; this value differs from {where}"
                    )


def check_references(source: Source, rules: Iterable[Reference], place: Place, data: Any) -> None:
    """Report names in *data*, the value at *place*, that refer to nothing."""
    for rule in rules:
        is_top = rule.to.startswith("/")
        root_place, root = ((), source.data) if is_top else (place, data)
        home = rule.to.removeprefix("/").partition("[")[0]
        if isinstance(root, dict) and not isinstance(root.get(home), (list, type(None))):
            continue  # the models report it; the names that it should define are unknown
        targets = [
            (at, name) for at, name in find(root, rule.to.removeprefix("/"), root_place) if isinstance(name, str)
        ]
        known = {name for _, name in targets}
        shown = {name for at, name in targets if not source.is_hidden(at)}
        for at, name in find(data, rule.at, place):
            if isinstance(name, str) and name not in known:
                where = f"the top-level {home}" if is_top else f"this provider's {home}"
                text = undefined(rule.what, name, where, shown, is_hidden=source.is_hidden(at))
                source.complain(at, text, first_only=True)


def offered_labels(rules: Iterable[Reference], data: Any) -> set[str]:
    """Return the labels that a provider's *data* names."""
    named = (find(data, rule.at) for rule in rules if rule.to == TOP_LABELS)
    return {name for found in named for _, name in found if isinstance(name, str)}


def check_abstract_images(source: Source, rules: Iterable[Reference], place: Place, data: Any) -> None:
    """Report abstract diskimages that a provider is configured to boot."""
    images = [image for _, image in find(source.data, "diskimages[]") if isinstance(image, dict)]
    abstract = {
        name for image in images if image.get("abstract") is True and isinstance(name := image.get("name"), str)
    }
    for rule in rules:
        for at, name in find(data, rule.at, place) if rule.to == TOP_DISKIMAGES else ():
            if isinstance(name, str) and name in abstract:
                shown = "this diskimage" if source.is_hidden(at) else f"diskimage {name!r}"
                source.complain(
                    at, f"{shown} is abstract: it can only be a parent of other images, and can't be booted"
                )


def check_parents(source: Source) -> None:
    """Report diskimages that are their own ancestors."""
    images = {
        image["name"]: (place, image.get("parent"))
        for place, image in find(source.data, "diskimages[]")
        if isinstance(image, dict) and isinstance(image.get("name"), str)
    }
    told: set[str] = set()
    for name, (place, parent) in images.items():
        line: list[str] = [name]
        while isinstance(parent, str) and parent in images and parent not in line:
            line.append(parent)
            parent = images[parent][1]
        if parent == name and name not in told:
            told.update(line)
            is_shown = not any(source.is_hidden((*images[each][0], "name")) for each in line)
            chain = f": {' -> '.join([*line, name])}" if is_shown else ""
            source.complain((*place, "parent"), f"the image is its own ancestor{chain}")


def check_store(source: Source, data: Mapping[str, Any]) -> None:
    """Report contradictions in the keys about the store."""
    servers = data.get("zookeeper-servers")
    if servers and "embedded-store" in data:
        text = "embedded-store and zookeeper-servers can't be combined; leave one of them out"
        source.complain(("embedded-store",), text, of_key=True)
    for key in ("zookeeper-tls", "zookeeper-auth", "zookeeper-acl"):
        if data.get(key) and not servers:
            source.complain((key,), f"{key} needs zookeeper-servers", of_key=True)
    if not data.get("zookeeper-tls") and not data.get("zookeeper-auth"):
        for place, scheme in find(data, "zookeeper-acl[].scheme"):
            if scheme == "auth":
                source.complain(place, "scheme: auth needs zookeeper-auth or zookeeper-tls")
    chroots = list(find(data, "zookeeper-servers[].chroot"))
    paths = {str(chroot).strip("/") for _, chroot in chroots} - {""}
    if len(paths) > 1:
        at, _ = next(found for found in chroots if str(found[1]).strip("/") not in ("", str(chroots[0][1]).strip("/")))
        source.complain(
            at, "chroot: all servers share one chroot; give the same value at each server, or only at one server"
        )
