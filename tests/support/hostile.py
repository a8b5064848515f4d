"""A driver with scripted answers: ``hostile.py FOLDER`` reads its answers from FOLDER/script.

The script is a JSON object of steps by method. A step is ``{"raw": TEXT}``, sent as it is; ``{"message": OBJECT}``, in
which ``"$ID"`` stands for the id of the call; or ``{"change": [PATH, VALUE]}``, the correct answer with one field
changed. In values ``"$DEEP"`` stands for a list 600 levels deep, ``"$HUGE"`` for a text of 900,000 characters. A method
that is not in the script gets the answer that the contract requires; a method with an empty list gets no answer.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "process-drivers"))

import nodelaunch_driver as sdk  # type: ignore[import-not-found]

MEANT = {b'"$DEEP"': b"[" * 600 + b"]" * 600, b'"$HUGE"': b'"' + b"x" * 900_000 + b'"'}


class Honest(sdk.Driver):  # type: ignore[misc]
    name, version, summary = "hostile", "1.0", "answers as it is told"
    capabilities = ("host_keys", "console_log", "zones")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.schemas: dict[str, Any] = {"provider": {}, "pool": {}, "label": {}}

    def traits(self, _label: dict[str, Any]) -> dict[str, Any]:
        return {"connection_type": None, "connection_port": None, "console_log": True}

    def create(self, spec: dict[str, Any]) -> str:
        external_id = str(spec["name"])
        (self.folder / external_id).write_text(json.dumps(spec["metadata"]))
        return external_id

    def _instance(self, path: Path) -> dict[str, Any]:
        metadata = json.loads(path.read_text())
        return {"external_id": path.name, "metadata": metadata, "is_active": True, "interface_ip": "127.0.0.1"}

    def wait(self, external_id: str) -> dict[str, Any]:
        try:
            return self._instance(self.folder / external_id)
        except (OSError, ValueError):
            raise sdk.DriverError("not_found", "it is not there") from None

    def delete(self, external_id: str) -> None:
        with suppress(OSError, ValueError):
            (self.folder / external_id).unlink()

    def list(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.folder.glob("np-*")):
            with suppress(OSError):
                found.append(self._instance(path))
        return found

    def limits(self) -> dict[str, float]:
        return {"instances": 100}

    def zones(self) -> list[str]:
        return ["a"]

    def console_log(self, _external_id: str) -> str:
        return "booting"


class Link(sdk._Link):  # type: ignore[misc]
    def answer(self, message: dict[str, Any]) -> None:
        script = json.loads((self.driver.folder / "script").read_text())
        steps = script.get(message["method"])
        if steps is None:
            super().answer(message)
            return
        with self.sending:
            for step in steps:
                self.do(step, message)

    def do(self, step: dict[str, Any], message: dict[str, Any]) -> None:
        number = message["id"]
        if "raw" in step:
            data = step["raw"].encode("utf-8", "surrogatepass")
        elif "message" in step:
            said = {key: number if value == "$ID" else value for key, value in step["message"].items()}
            data = json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n"
        else:
            path, value = step["change"]
            try:
                result = changed(self.perform(message["method"], message["params"]), path, value)
                said = {"result": result}
            except sdk.DriverError as error:
                said = {"error": {"code": -32000, "message": str(error), "data": error.data}}
            data = json.dumps({"jsonrpc": "2.0", "id": number, **said}).encode() + b"\n"
        for name, meant in MEANT.items():
            data = data.replace(name, meant)
        try:
            self.connection.sendall(data)
        except OSError:
            os._exit(0)


def changed(content: Any, path: list[Any], value: Any) -> Any:
    """*content* with *value* at *path*, as far as there is such a place."""
    if not path:
        return value
    if isinstance(content, list):
        return [changed(each, path, value) for each in content]
    if isinstance(content, dict):
        return {**content, path[0]: changed(content.get(path[0]), path[1:], value)}
    return value


if __name__ == "__main__":
    sdk._Link = Link
    sdk.serve(Honest(Path(sys.argv[1])))
