"""Python packages made by hand, for tests of what is installed: as folders to import from, and as wheels."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def metadata(name: str, version: str, requires: Sequence[str] = ()) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "License-Expression: Apache-2.0"]
    return "\n".join([*lines, "Author: somebody", *(f"Requires-Dist: {each}" for each in requires), ""])


def entry_points(**groups: Mapping[str, str]) -> str:
    """The text of ``entry_points.txt``; a group's dots are written as double underscores."""
    return "".join(
        f"[{group.replace('__', '.')}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    )


def put_on_path(
    folder: Path,
    name: str,
    files: Mapping[str, str],
    *,
    version: str = "1.0",
    points: str = "",
    requires: Sequence[str] = (),
) -> Path:
    """A package as if installed in *folder*, which has to be put on the path; *folder*."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    content = {**files, f"{info}/METADATA": metadata(name, version, requires), f"{info}/entry_points.txt": points}
    for path, text in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def wheel(
    folder: Path,
    name: str,
    files: Mapping[str, str],
    *,
    version: str = "1.0",
    points: str = "",
    requires: Sequence[str] = (),
) -> Path:
    """A wheel in *folder*, as pip takes it; files below ``scripts/`` become executables."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    scripts = f"{stem}.data/scripts/"
    content = {
        path.replace("scripts/", scripts, 1) if path.startswith("scripts/") else path: text
        for path, text in files.items()
    }
    content[f"{info}/METADATA"] = metadata(name, version, requires)
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if points:
        content[f"{info}/entry_points.txt"] = points
    record = "".join(f"{path},sha256={_record_digest(text)},{len(text.encode())}\n" for path, text in content.items())
    path = folder / f"{stem}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**content, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            entry = zipfile.ZipInfo(inner)
            entry.external_attr = (0o100755 if inner.startswith(scripts) else 0o100644) << 16
            archive.writestr(entry, text)
    return path


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
