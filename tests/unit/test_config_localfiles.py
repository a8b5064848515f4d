"""Results of `config check` for the store and the tokens of a launcher, which are files of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodelaunch.cli.main import main

GOOD = "f" * 16
CONFIG = "labels: []\nembedded-store:\n  path: {store}\nwebapp:\n  token-file: {tokens}\n"


class Checked:
    """A configuration with a store and tokens, checked by the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.config = folder / "nodelaunch.yaml"
        self.tokens = folder / "tokens"
        self.tokens.write_text(GOOD)
        self.tokens.chmod(0o640)
        self._capsys = capsys

    def says(self, store: str | Path = "store") -> tuple[int, list[str]]:
        """Exit code, and what is said of lines of the configuration."""
        self.config.write_text(CONFIG.format(store=self.folder / store, tokens=self.tokens))
        code = main(["config", "check", str(self.config)])
        out, errors = self._capsys.readouterr()
        said = (out + errors).replace(f"{self.config}:", "").replace(f"{self.folder}", "HERE")
        return code, [line for line in said.splitlines() if " good; " not in line]


@pytest.fixture
def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    return Checked(tmp_path, capsys)


def test_good_files_are_nothing_to_speak_of(checked: Checked) -> None:
    assert checked.says() == (0, [])
    assert checked.says("new/folder/store") == (0, [])
    assert not (checked.folder / "new").exists()


def test_store_below_a_file_is_an_error(checked: Checked) -> None:
    text = "3:9: path: HERE/tokens is a file, not a folder; name a file in a folder"
    assert checked.says("tokens/store") == (2, [text])
    assert checked.says("tokens/a/store") == (2, [text])


def test_store_that_is_a_folder_is_an_error(checked: Checked) -> None:
    assert checked.says(".") == (2, ["3:9: path: HERE is a folder; name a file, such as HERE/store.sqlite"])


def test_launcher_does_not_start_with_a_store_that_can_be_nowhere(
    checked: Checked, capsys: pytest.CaptureFixture[str]
) -> None:
    checked.says("tokens/store")
    assert main(["serve", "-c", str(checked.config)]) == 2
    assert f"{checked.config}:3:9: path: " in capsys.readouterr().err


def test_store_that_this_user_may_not_write_is_a_warning(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may run the launcher."""
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    text = "3:9: path: user ann can't write HERE; the launcher's user needs write access (warning)"
    assert checked.says() == (0, [text])
    assert checked.says("new/store") == (0, [text])


@pytest.mark.parametrize("content", ["", "\n", "# a comment\n"])
def test_token_file_without_a_token_is_a_warning(checked: Checked, content: str) -> None:
    checked.tokens.write_text(content)
    text = (
        "5:15: token-file: the file has no token, so HTTP requests that need a token fail; a token is "
        "a line of at least 16 characters (warning)"
    )
    assert checked.says() == (0, [text])


def test_token_that_is_too_short_is_named_by_its_line_and_not_shown(checked: Checked) -> None:
    checked.tokens.write_text(f"# ours\n{GOOD}\nsecret\n")
    text = (
        "5:15: token-file: line 3 is too short for a token, and is ignored; a token is a line of "
        "at least 16 characters (warning)"
    )
    assert checked.says() == (0, [text])


def test_token_file_that_is_no_text_is_a_warning(checked: Checked) -> None:
    checked.tokens.write_bytes(b"\xff" * 20)
    code, (text,) = checked.says()
    assert code == 0
    assert text.startswith("5:15: token-file: the file can't be read: it is not UTF-8; HTTP requests that need a token")


def test_token_file_that_everybody_can_read_is_a_warning(checked: Checked) -> None:
    checked.tokens.chmod(0o644)
    text = "5:15: token-file: every user of this machine can read the file; run chmod o-rwx HERE/tokens (warning)"
    assert checked.says() == (0, [text])
