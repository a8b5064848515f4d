"""Former names of public classes, which still work and warn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping


def renamed(module: str, name: str, classes: Mapping[str, type]) -> type:
    """Return the class with the former *name* in *module*, of *classes*, and warn. Raises: AttributeError."""
    if name not in classes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    new = classes[name]
    warnings.warn(f"{module}.{name} is now {new.__name__}", DeprecationWarning, stacklevel=3)
    return new
