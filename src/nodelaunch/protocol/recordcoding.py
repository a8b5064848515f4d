"""The coding of all records: one list of fields per class, a tolerant reader and writer, and a fast path on msgspec.

A field whose annotation names a reader is a key of the JSON object; the caller of the reader gives the other fields.
The fast path handles input that both codecs treat alike and leaves the rest to Python's ``json``: a text as label,
unknown keys, NaN, lone surrogates, UTF-16. msgspec reports an error for input that it does not handle, so both paths
agree.

Source: Nodepool 11, its record classes; msgspec 0.19 and later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from math import isfinite
from operator import itemgetter
from types import MappingProxyType, NoneType
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from nodelaunch.errors import RecordInvalidError

JsonObject = dict[str, Any]
Reader = Callable[[Any], Any]
NO_EXTRA: Final[Mapping[str, Any]] = MappingProxyType({})
REQUIRED: Final = msgspec.NODEFAULT
"""Argument of `Record._read` for a field whose key must be present."""
NOT_HANDLED: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""Errors of the fast decoder on input that needs the tolerant reader."""


# -- reading single values ------------------------------------------------------------------------------------------


def _kind(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r:.60}"


def anything(value: Any) -> Any:
    return value


def text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"text or null was expected, found {_kind(value)}")


def word(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"text was expected, found {_kind(value)}")


def texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(f"a list of texts was expected, found {_kind(value)}")


def labels(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else texts(value)


def texts_or_none(value: Any) -> tuple[str, ...]:
    return () if value is None else texts(value)


def mapping_or_none(value: Any) -> JsonObject | None:
    if value is None or isinstance(value, dict):
        return value
    raise TypeError(f"an object or null was expected, found {_kind(value)}")


def mapping(value: Any) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise TypeError(f"an object was expected, found {_kind(value)}")


def number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    raise TypeError(f"a number was expected, found {_kind(value)}")


def number_or_none(value: Any) -> float | None:
    return None if value is None else number(value)


def whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"a whole number was expected, found {_kind(value)}")


def whole_or_none(value: Any) -> int | None:
    return None if value is None else whole(value)


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"true or false was expected, found {_kind(value)}")


def expiration(value: Any) -> int | None:
    """Return seconds to hold; a numeric text counts, anything else is 0. Source: Nodepool 11, Node.hold_expiration."""
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def amounts(value: Any) -> Mapping[str, float] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: number(amount) for name, amount in value.items() if amount is not None}
    raise TypeError(f"an object or null was expected, found {_kind(value)}")


Anything = Annotated[Any, anything]
Text = Annotated[str | None, text]
Word = Annotated[str, word]
Texts = Annotated[tuple[str, ...], texts]
Object = Annotated[JsonObject, mapping]
ObjectOrNone = Annotated[JsonObject | None, mapping_or_none]
Number = Annotated[float, number]
NumberOrNone = Annotated[float | None, number_or_none]
Whole = Annotated[int, whole]
WholeOrNone = Annotated[int | None, whole_or_none]
Flag = Annotated[bool, flag]
Amounts = Annotated[Mapping[str, float] | None, amounts]

_LOOSE: Final = frozenset({anything, mapping, mapping_or_none})
"""Readers of values that may contain data that msgspec writes differently, or not at all."""


def json_object(path: str, data: bytes) -> JsonObject:
    """Return the JSON object in *data*, the body of the znode at *path*. Raises: RecordInvalidError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordInvalidError(path, f"not JSON: {error}" if data else "empty") from None
    if not isinstance(body, dict):
        raise RecordInvalidError(path, f"a JSON object was expected, found {_kind(body)}")
    return body


@lru_cache(maxsize=8192)
def shared(value: Any) -> Any:
    """Return an equal value that was seen before, so that 10,000 records hold a provider's name once."""
    return value


# -- the one list of fields -----------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A field that is a key of the JSON object."""

    name: str
    key: str
    read: Reader


@cache
def keys_of(record: type[Struct]) -> tuple[Key, ...]:
    """Return the fields of *record* that are keys of its JSON object, in the order in which they are written."""
    hints = get_type_hints(record, include_extras=True)
    known = [(f.name, f.encode_name, hints[f.name]) for f in msgspec.structs.fields(record)]
    return tuple(Key(name, key, hint.__metadata__[0]) for name, key, hint in known if hasattr(hint, "__metadata__"))


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """Shared coding of records: every known key is always written, null included, and unknown keys are kept."""

    SORTED: ClassVar[bool] = False
    extra: Mapping[str, Any] = NO_EXTRA
    """Unknown keys, kept for programs that know them."""

    def changed(self, **changes: Any) -> Self:
        """Return this record with *changes*, by field. Raises: TypeError on a name that is no field."""
        return msgspec.structs.replace(self, **changes)

    def to_bytes(self) -> bytes:
        body = {key: _plain(getattr(self, name)) for name, key, _ in keys_of(type(self))}
        body |= {key: value for key, value in self.extra.items() if key not in body}
        return json.dumps(body, sort_keys=self.SORTED).encode()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "extra")
        return f"{type(self).__name__}({', '.join(shown)})"

    @classmethod
    def _read(cls, where: str, data: bytes, /, **given: Any) -> Self:
        """Return the record in *data*. *given*: the fields that are no keys, and the values of absent keys."""
        rest = json_object(where, data)
        for name, key, read in keys_of(cls):
            if key in rest:
                value = rest.pop(key)
                try:
                    given[name] = read(value)
                except (TypeError, ValueError, OverflowError) as error:
                    raise RecordInvalidError(where, f"{key}: {error}") from None
        if missing := next((key for name, key, _ in keys_of(cls) if given.get(name) is REQUIRED), None):
            raise RecordInvalidError(where, f"{missing}: missing")
        return cls(**given, extra=rest or NO_EXTRA)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


# -- the fast path --------------------------------------------------------------------------------------------------


class Unread:
    """JSON that has not been decoded yet. It equals the value that it encodes."""

    SHORT: ClassVar = 1000
    """Bytes up to which a text stays undecoded; a longer one may nest deeper, or have more digits, than is readable."""
    __slots__ = ("data",)
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # like the objects and lists that it stands for

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data

    @classmethod
    def of(cls, raw: msgspec.Raw) -> Unread | None:
        """Return *raw* unread, after checks that a decoder does not make. Raises: ValueError, RecursionError."""
        unread = cls(bytes(raw))
        if unread.data == b"null":
            return None
        if len(unread.data) > cls.SHORT or not unread.data.isascii():
            unread.read()
        return unread

    def read(self) -> Any:
        return json.loads(self.data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Unread):
            return self.data == other.data or bool(self.read() == other.read())
        return bool(self.read() == other)


_ALIKE: Final = frozenset({str, int, bool, NoneType, Unread})
_WORDS: Final = frozenset({str})
_LISTS: Final = frozenset({list, tuple})


def is_exact(values: Iterable[Any]) -> bool:
    """Return True if msgspec writes *values* as ``json`` does: no NaN, no infinity, only text as keys, no own types."""
    for value in values:
        if value is None or (kind := type(value)) in _ALIKE:
            continue
        if kind is dict:
            if _WORDS.issuperset(map(type, value)) and (
                _ALIKE.issuperset(map(type, value.values())) or is_exact(value.values())
            ):
                continue
            return False
        if not (isfinite(value) if kind is float else kind in _LISTS and is_exact(value)):
            return False
    return True


def _write_unread(value: Any) -> msgspec.Raw:
    if isinstance(value, Unread):
        return msgspec.Raw(value.data)
    raise TypeError(f"{type(value).__name__} is no JSON")


class Wire:
    """The keys of one record class as a separate struct, which msgspec reads and writes without loss.

    The record class has its id first, then the keys in their order, then nothing but ``extra``.
    """

    __slots__ = ("_encode", "_loose", "_struct", "decode")

    def __init__(self, record: type[Struct], *, types: Mapping[str, Any] | None = None, **absent: Any) -> None:
        """*types*: other types of fields; *absent*: other values of absent keys."""
        keys = keys_of(record)
        known = {f.name: f for f in msgspec.structs.fields(record)}
        kinds = get_type_hints(record) | dict(types or {})
        fields = [(k.name, kinds[k.name], absent.get(k.name, known[k.name].default)) for k in keys]
        self._struct = msgspec.defstruct(
            f"{record.__name__}Wire",
            [field[:2] if field[2] is msgspec.NODEFAULT else field for field in fields],
            forbid_unknown_fields=True,
            gc=False,
        )
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._struct).decode
        self._encode = msgspec.json.Encoder(enc_hook=_write_unread).encode
        loose = [place for place, key in enumerate(keys, 1) if key.read in _LOOSE]
        # the first one twice, since a getter of one place makes no tuple
        self._loose: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(*loose, *loose[:1]) if loose else tuple

    def encode(self, record: Record) -> bytes | None:
        """Return the JSON of *record*; None if only Python's ``json`` writes it compatibly."""
        values = astuple(record)
        if not is_exact(self._loose(values)):
            return None
        try:
            data = self._encode(self._struct(*values[1:-1]))
        except (TypeError, UnicodeEncodeError):
            return None
        return data if data.isascii() and not record.extra else None
