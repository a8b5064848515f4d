"""Lock files name wheels by digest, and wheels say what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nodelaunch.driverhost.install.lockfile import InstallError, Locked, read_lock, read_wheel, write_lock
from support.packages import wheel


def test_wheel_says_its_name_and_needs(tmp_path: Path) -> None:
    made = read_wheel(wheel(tmp_path, "Cloud_Painter", {}, version="1.2", requires=["Nodelaunch>=1; x", "a.b"]))
    assert (made.name, made.version, made.requires) == ("cloud-painter", "1.2", ("nodelaunch", "a-b"))


def test_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    wheels = [read_wheel(wheel(tmp_path, name, {})) for name in ("b", "a")]
    write_lock(tmp_path / "lock", wheels, python="3.11")
    digests = [hashlib.sha256(each.path.read_bytes()).hexdigest() for each in wheels]
    assert read_lock(tmp_path / "lock") == [Locked("b", "1.0", digests[0]), Locked("a", "1.0", digests[1])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "is empty"),
        ("a==1\n", ":1:1: expected NAME==VERSION --hash"),
        ("\n--index-url http://x\n", ":2:1: "),
        (f"a==1 --hash=sha256:{'0' * 63}\n", ":1:1: "),
        (f"a @ file:///x --hash=sha256:{'0' * 64}\n", ":1:1: "),
    ],
)
def test_lock_with_anything_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lock").write_text(text)
    with pytest.raises(InstallError, match=message):
        read_lock(tmp_path / "lock")


def test_what_is_no_wheel_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_text("no archive")
    with pytest.raises(InstallError, match="is no wheel: File is not a zip file"):
        read_wheel(tmp_path / "x.whl")
    with pytest.raises(InstallError, match=r"lock file .* can't be read"):
        read_lock(tmp_path / "none")
