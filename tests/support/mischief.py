"""A driver that keeps the contract but for one fault: ``mischief.py FAULT FOLDER``.

Its pids and what it sees go to files in FOLDER; there its instances are kept, too, so that a fault can be a crash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "process-drivers"))

import nodelaunch_driver as sdk  # type: ignore[import-not-found]


class Mischief(sdk.Driver):  # type: ignore[misc]
    name, version, licence, maintainer = "mischief", "1.0", "Apache-2.0", "somebody"
    summary = "keeps the contract but for one fault"

    def __init__(self, fault: str, folder: Path) -> None:
        self.fault = fault
        self.folder = folder
        self.schemas = {
            "provider": {"additionalProperties": False, "properties": {"size": {"type": "integer", "minimum": 1}}},
            "pool": {"additionalProperties": False},
            "label": {"required": ["kind"], "properties": {"kind": {"enum": ["a", "b"]}}},
        }
        self.capabilities = {"has zones": ("zones", "telepathy")}.get(fault, ())
        self.instances: dict[str, dict[str, Any]] = {}

    def traits(self, _label: dict[str, Any]) -> dict[str, Any]:
        return {"connection_type": "telepathy", "invented_later": 5}

    def create(self, spec: dict[str, Any]) -> str:
        external_id = f"i-{spec['node_id']}"
        self.instances[external_id] = {"external_id": external_id, "metadata": spec["metadata"], "invented_later": 5}
        match self.fault:
            case "dies in create":
                self.progress("made", external_id)
                say("the last words")
                os._exit(3)
            case "starts others":
                (self.folder / "child").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
                daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)
                (self.folder / "daemon").write_text(str(daemon.pid))
            case "invents a kind":
                raise sdk.DriverError("eclipse", "the sun is gone", scope="galaxy")
            case "is too late":
                self._wait_for_ever()
            case "answers nothing sensible":
                return 5  # type: ignore[return-value]
            case "says garbage":
                os.write(self._connection(), b"Segmentation fault\n")
            case "says too much":
                os.write(self._connection(), b" " * ((1 << 20) + 10) + b"\n")
        return external_id

    def wait(self, external_id: str) -> dict[str, Any]:
        if self.fault == "gives too much data":
            return {"external_id": external_id, "driver_data": "x" * (17 << 10)}
        seen = self.folder / "data"
        seen.write_text(json.dumps(self.driver_data()))
        return {**self.instances[external_id], "is_active": True, "driver_data": {"note": 1}}

    def delete(self, external_id: str) -> None:
        self.instances.pop(external_id, None)

    def list(self) -> list[dict[str, Any]]:
        return list(self.instances.values())

    def zones(self) -> list[str]:
        return ["a", "b"]

    def limits(self) -> dict[str, float]:
        match self.fault:
            case "logs much":
                for number in range(5000):
                    say(f"line {number}")
            case "notes":
                self.log("hello", secret=False, driver="me")
                sdk._call.link.note("invented.later", {"a": 1})
                sdk._call.link.note("log", {"level": "shout"})
            case "tells its environment":
                (self.folder / "environment").write_text(json.dumps(sorted(os.environ)))
            case "goes deaf":
                os.kill(os.getpid(), 19)
        return {"instances": 7}

    def _wait_for_ever(self) -> None:
        while not self.cancelled():
            time.sleep(0.01)
        raise sdk.DriverError("cancelled", "given up", may_exist=True)

    @staticmethod
    def _connection() -> int:
        return int(sdk._call.link.connection.fileno())


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    fault, folder = sys.argv[1], Path(sys.argv[2])
    (folder / f"pid-{os.getpid()}").touch()
    match fault:
        case "exits at once":
            say("there is no cloud")
            sys.exit(7)
        case "never connects":
            time.sleep(1000)
        case "has no token":
            os.dup2(os.open("/dev/null", os.O_RDONLY), 3)
        case "is of the past":
            sdk.CONTRACT = {"min": 0, "max": 0}
        case "is of the future":
            sdk.CONTRACT = {"min": 1, "max": 9}
        case "is only of the future":
            sdk.CONTRACT = {"min": 8, "max": 9}
        case "will not go":
            sdk.os._exit = lambda _code: time.sleep(1000)
            import signal

            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sdk.serve(Mischief(fault, folder))


if __name__ == "__main__":
    main()
