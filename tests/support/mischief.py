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

NESTED: Any = 0
for _ in range(900):
    NESTED = [NESTED]
IDENTITIES: dict[str, dict[str, Any]] = {
    "speaks in surrogates": {"summary": "half a character: \ud800", "maintainer": "\x1b[2J\x1b[31mme\n"},
    "says very much of itself": {"summary": "a" * 500_000 + "z"},
    "describes itself in surrogates": {"schemas": {"provider": {"description": "\ud800"}}},
    "describes itself too deeply": {"schemas": {"provider": {"description": NESTED}}},
}
"""Identity that the driver gives, by the fault."""
IDS: dict[str, Any] = {
    "has no id": "",
    "has an endless id": "i" * 900_000,
    "has an id of two lines": "i-1\ni-2",
    "has an id with a NUL": "i-\0",
    "has half a character for an id": "i-\ud800",
}
WAITS: dict[str, dict[str, Any]] = {
    "gives deep data": {"driver_data": NESTED},
    "gives huge numbers": {"driver_data": {"a": 10**30}},
    "is another": {"external_id": "i-2"},
    "is not active": {"is_active": False},
    "is somehow active": {"is_active": "yes"},
    "has no address": {"interface_ip": "not an ip\n\x1b[2J"},
    "has no port": {"connection_port": {"a": [1]}},
}
"""Answer to a wait for an instance, by the fault."""
STRAYS: dict[str, dict[str, Any]] = {
    "answers what nobody asked": {"id": 999, "result": {}},
    "answers in words": {"id": "1", "result": {}},
    "answers a flag": {"id": True, "result": {}},
    "answers nobody": {"id": None, "error": {"code": -32700, "message": "what was \x1b[2J that?"}},
}
ERRORS: dict[str, sdk.DriverError] = {
    "says very much": sdk.DriverError(
        "permanent", "a\x1b[2J\n" * 50_000 + "the end", external_id="", retry_after_s=-1.0
    ),
    "fails in surrogates": sdk.DriverError("permanent", "half a character: \ud800"),
}


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
        if fault in IDENTITIES:
            vars(self).update(IDENTITIES[fault])
        self.instances: dict[str, dict[str, Any]] = {}

    def traits(self, _label: dict[str, Any]) -> dict[str, Any]:
        return {"connection_type": "telepathy", "invented_later": 5}

    def create(self, spec: dict[str, Any]) -> str:
        external_id = f"i-{spec['node_id']}"
        self.instances[external_id] = {"external_id": external_id, "metadata": spec["metadata"], "invented_later": 5}
        if self.fault in IDS:
            return str(IDS[self.fault])
        if self.fault in ERRORS:
            raise ERRORS[self.fault]
        for _ in range(1000 if self.fault in STRAYS else 0):
            sdk._call.link.send(STRAYS[self.fault])
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
        if self.fault in WAITS:
            return {"external_id": external_id, "is_active": True, "metadata": {}, **WAITS[self.fault]}
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
            case "notes very much":
                for number in range(5000):
                    self.log(f"note {number}", deep=NESTED if number == 0 else None)
            case "gives negative limits":
                return {"instances": -1}
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
        case "lists the same page for ever":
            sdk._Link.page = lambda _link, _cursor: {"instances": [], "next_cursor": "again"}
        case "lists pages without end":
            sdk._Link.page = lambda _link, cursor: {"instances": [], "next_cursor": str(int(cursor or 0) + 1)}
        case "proves nothing in surrogates":
            sdk._Link.proof = lambda _link, _role: "\ud800"
    sdk.serve(Mischief(fault, folder))


if __name__ == "__main__":
    main()
