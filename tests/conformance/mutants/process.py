"""Drivers in processes of their own, each broken in one way: `process.py NAME` is one of them.

The healthy one keeps its instances as files of a folder, which is its cloud; each mutant is it but for a few lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "process-drivers"))

import nodelaunch_driver as sdk  # type: ignore[import-not-found]

PASSWORD = "swordfish-29a1"
Json = dict[str, Any]


class Healthy(sdk.Driver):  # type: ignore[misc]
    """Keeps the whole contract."""

    name, version, licence, maintainer = "healthy", "1.0", "Apache-2.0", "somebody"
    summary = "a file per instance"
    capabilities = ("faults",)
    schemas: ClassVar[Json] = {
        "provider": {
            "type": "object", "additionalProperties": False, "required": ["state-dir"],
            "properties": {"state-dir": {"type": "string"}, "password": {"type": "string", "format": "password"}},
        },
        "pool": {"type": "object", "additionalProperties": False},
        "label": {"type": "object", "additionalProperties": False},
    }  # fmt: skip
    example: ClassVar[Json] = {
        "state-dir": "{folder}",
        "password": PASSWORD,
        "pools": [{"name": "main", "labels": [{"name": "small"}]}],
    }
    files: ClassVar[dict[str, str]] = {
        "boot-held": ".hold",
        "list-lags": ".lag",
        "no room": ".full",
        "answer lost": ".deaf",
    }
    Link: type[sdk._Link] = sdk._Link

    def open(self, config: Json) -> None:
        self.folder = Path(config["state-dir"])

    def set(self, fault: str) -> bool:
        return (self.folder / self.files[fault]).exists()

    # -- the driver -------------------------------------------------------------------------------------------------

    def create(self, spec: Json) -> str:
        self.label(spec["pool"], spec["label"])
        if self.set("no room"):
            raise sdk.DriverError("capacity", "there is no room")
        external_id = f"i-{spec['node_id']}-{os.urandom(3).hex()}"
        marks = {"held": self.set("boot-held"), "lags": self.set("list-lags")}
        self.write(external_id, {"external_id": external_id, "metadata": spec["metadata"], **marks})
        self.progress("made", external_id)
        if self.set("answer lost"):
            raise sdk.DriverError("transient", "the answer was lost", may_exist=True)
        return external_id

    def wait(self, external_id: str) -> Json:
        while True:
            instance = self.read(external_id)
            if instance is None:
                raise sdk.DriverError("not_found", f"there is no {external_id}")
            if instance["is_active"]:
                return instance
            self.pause(0.005)

    def delete(self, external_id: str) -> None:
        self.place(external_id).unlink(missing_ok=True)

    def list(self) -> list[Json]:
        found = (self.read(path.stem) for path in self.folder.glob("i-*.json"))
        return [each for each in found if each is not None and not (each["lags"] and self.set("list-lags"))]

    # -- its cloud --------------------------------------------------------------------------------------------------

    def place(self, external_id: str) -> Path:
        return self.folder / f"{Path(external_id).name}.json"

    def write(self, external_id: str, instance: Json) -> None:
        new = self.folder / f".{external_id}"
        new.write_text(json.dumps(instance))
        new.rename(self.place(external_id))

    def read(self, external_id: str) -> Json | None:
        try:
            instance: Json = json.loads(self.place(external_id).read_text())
        except FileNotFoundError:
            return None
        return {**instance, "is_active": not (instance["held"] and self.set("boot-held"))}

    def faults(self) -> Json:
        return {
            "boot-held": {}, "list-lags": {}, "foreign-instance": {},
            "no room": {"call": "instance.create", "kind": "capacity"},
            "answer lost": {"call": "instance.create", "kind": "transient"},
        }  # fmt: skip

    def set_fault(self, name: str) -> str | None:
        if name == "foreign-instance":
            self.write("i-foreign", {"external_id": "i-foreign", "metadata": {}, "held": False, "lags": False})
            return "i-foreign"
        (self.folder / self.files[name]).touch()
        return None

    def clear_fault(self, name: str) -> None:
        if name == "foreign-instance":
            self.place("i-foreign").unlink(missing_ok=True)
        else:
            (self.folder / self.files[name]).unlink(missing_ok=True)

    def resources(self) -> dict[str, str | None]:
        return {path.stem: path.stem for path in self.folder.glob("i-*.json")}


MUTANTS: dict[str, tuple[type[Healthy], str, str]] = {}
"""Driver, rules that may be reported as broken, and the check that must report them, by name."""


def mutant(rules: str, check: str) -> Callable[[type[Healthy]], type[Healthy]]:
    def add(driver: type[Healthy]) -> type[Healthy]:
        MUTANTS[driver.__name__] = (driver, rules, check)
        return driver

    return add


def send_raw(data: bytes) -> None:
    link = sdk._call.link
    with link.sending:
        link.connection.sendall(data)


# -- the handshake -----------------------------------------------------------------------------------------------------


@mutant("P2", "it_proves_to_have_the_token")
class HasAnotherToken(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def __init__(self, driver: Healthy, connection: Any, _token: str) -> None:
            super().__init__(driver, connection, "f" * 64)


@mutant("P2", "strangers_are_refused")
class BelievesAnybody(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def authenticate(self, params: Json) -> Json:
            self.nonces = self.nonces or ("", "")
            return super().authenticate({**params, "proof": self.proof("launcher")})


@mutant("P2", "strangers_are_refused")
class WorksForStrangers(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            self.is_proved = self.is_proved or method == "driver.open"
            return super().perform(method, params)


@mutant("P1", "it_connects_once")
class ConnectsTwice(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def run(self) -> None:
            import socket

            self.other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.other.connect(os.environ["NODELAUNCH_DRIVER_SOCKET"])
            super().run()


@mutant("P18", "its_versions_are_its_own")
class SpeaksWhateverIsAsked(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            answer: Json = super().perform(method, params)
            return {**answer, "protocol": params["protocol"]} if method == "handshake.hello" else answer


@mutant("P18", "its_versions_are_its_own")
class HasItsVersionsBackwards(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            answer: Json = super().perform(method, params)
            return {**answer, "protocol": {"min": 3, "max": 1}} if method == "handshake.hello" else answer


# -- messages ----------------------------------------------------------------------------------------------------------


@mutant("P4", "its_lines_are_messages")
class SpeaksInTongues(Healthy):
    def create(self, spec: Json) -> str:
        send_raw(b"DEBUG: creating\n")
        return super().create(spec)


@mutant("P4", "its_lines_are_messages")
class SaysAllAtOnce(Healthy):
    def list(self) -> list[Json]:
        send_raw(b'{"jsonrpc":"2.0","method":"log","params":{"event":"' + b"x" * (1 << 20) + b'"}}\n')
        return super().list()


@mutant("P8", "each_request_is_answered_once")
class AnswersTwice(Healthy):
    def limits(self) -> dict[str, float]:
        sdk._call.link.send({"id": sdk._call.id, "result": {"amounts": {}}})
        return {}


@mutant("P8", "each_request_is_answered_once")
class DropsWhatIsTooMuch(Healthy):
    """Accepts four calls at once, and forgets any further ones."""

    class Link(sdk._Link):  # type: ignore[misc]
        def answer(self, message: Json) -> None:
            busy = [each for each in self.calls if each != message["id"]]
            if message["method"] == "ping" or len(busy) < 4:
                time.sleep(0.02 if message["method"] == "quota.limits" else 0)
                super().answer(message)


@mutant("P8", "its_lines_are_messages")
class NeverAnswersDelete(Healthy):
    def delete(self, external_id: str) -> None:
        super().delete(external_id)
        threading.Event().wait()


@mutant("D4.1", "its_lines_are_messages")
class NeverStarts(Healthy):
    def wait(self, external_id: str) -> Json:
        raise sdk.DriverError("permanent", "not started in time", external_id=external_id)


@mutant("P19", "its_answers_have_their_form")
class GivesNumbersForIds(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            answer: Json = super().perform(method, params)
            return {**answer, "is_ready": "maybe"} if method == "label.ready" else answer


@mutant("P19", "its_answers_have_their_form")
class GivesTooMuchData(Healthy):
    def wait(self, external_id: str) -> Json:
        return {**super().wait(external_id), "driver_data": "x" * (17 << 10)}


@mutant("P6", "what_it_does_not_know_is_passed_over")
class KnowsNothingNew(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            known = {"deadline_s", "pool", "label"}
            if method == "label.usage" and not params.keys() <= known:
                raise sdk.DriverError("config", f"what is {sorted(params.keys() - known)}?")
            return super().perform(method, params)  # type: ignore[no-any-return]


@mutant("P7", "unknown_methods_are_refused")
class SaysYesToAnything(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def perform(self, method: str, params: Json) -> Json:
            try:
                return super().perform(method, params)  # type: ignore[no-any-return]
            except sdk.DriverError as error:
                if error.data["kind"] == "unsupported" and "method" in str(error):
                    return {}
                raise


@mutant("P15", "its_schemas_are_schemas")
class HasAnIdeaOfSchemas(Healthy):
    schemas: ClassVar[Json] = {
        **Healthy.schemas,
        "label": {"type": "mapping", "properties": {"size": {"required": True}}},
    }


# -- giving up, and the end --------------------------------------------------------------------------------------------


@mutant("P9 P10", "a_cancelled_request_is_answered")
class HearsNoCancel(Healthy):
    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


@mutant("P10", "a_deadline_is_kept")
class HasTime(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def answer(self, message: Json) -> None:
            params = {**message.get("params", {}), "deadline_s": 3600.0}
            super().answer({**message, "params": params})


@mutant("P5", "it_ends_with_the_connection")
class WillNotGo(Healthy):
    class Link(sdk._Link):  # type: ignore[misc]
        def run(self) -> None:
            super().run()
            if hasattr(self.driver, "folder"):
                time.sleep(1000)


@mutant("P13", "it_leaves_no_process_behind")
class StartsDaemons(Healthy):
    def create(self, spec: Json) -> str:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["sleep", "1000"], start_new_session=True, **quiet)  # type: ignore[call-overload]
        return super().create(spec)


@mutant("P20", "it_leaves_no_files_behind")
class LittersTheFloor(Healthy):
    def open(self, config: Json) -> None:
        super().open(config)
        tempfile.mkstemp()


@mutant("P20", "it_leaves_no_files_behind")
class KeepsALogAtHome(Healthy):
    def open(self, config: Json) -> None:
        super().open(config)
        if config["state-dir"]:
            (Path.home() / ".mutant-of-nodelaunch").write_text("opened\n")


@mutant("P21", "it_does_not_flood")
class CannotStop(Healthy):
    def create(self, spec: Json) -> str:
        for number in range(5000):
            sys.stdout.write(f"step {number}\n")
        sys.stdout.flush()
        return super().create(spec)


@mutant("P14", "by_hand_it_says_what_it_is")
class FallsOverByHand(Healthy):
    """Its main function is not prepared for that."""


@mutant("D10", "secrets_are_never_said")
class PrintsItsPassword(Healthy):
    def create(self, spec: Json) -> str:
        sys.stderr.write(f"logging in with {self.config['password']}\n")
        return super().create(spec)


@mutant("D10", "secrets_are_never_said")
class LogsRequests(Healthy):
    def create(self, spec: Json) -> str:
        self.log("create", spec=spec)
        return super().create(spec)


# -- the driver's calls ------------------------------------------------------------------------------------------------


@mutant("D7.1", "nonsense_gives_driver_errors")
class RaisesKeyErrors(Healthy):
    def usage(self, pool: str, label: str) -> dict[str, float]:
        return {"small": {"instances": 1.0}}[label]


@mutant("D8.2", "a_killed_create_leaves_nothing_hidden")
class WritesItDownLater(Healthy):
    """Lists a resource only after writing it down; it can be killed between creating and writing."""

    def create(self, spec: Json) -> str:
        volume = self.folder / f"vol-{spec['node_id']}"
        volume.touch()
        self.progress("volume")
        time.sleep(0.03)
        external_id = super().create(spec) if not self.refuses() else self.undo(volume)
        volume.unlink()
        return external_id

    def refuses(self) -> bool:
        return self.set("no room") or self.set("answer lost")

    def undo(self, volume: Path) -> str:
        volume.unlink()
        kind = "capacity" if self.set("no room") else "transient"
        raise sdk.DriverError(kind, "it failed")

    def label(self, pool: str, label: str) -> Json:
        try:
            return super().label(pool, label)  # type: ignore[no-any-return]
        except sdk.DriverError:
            for volume in self.folder.glob("vol-*"):
                volume.unlink()
            raise

    def resources(self) -> dict[str, str | None]:
        return {**super().resources(), **{path.name: None for path in self.folder.glob("vol-*")}}


@mutant("D3.1 D4.1 D5.2 D6.3 D6.4 D8.1 D8.2 D8.3 D3.2 D5.3", "another_driver_takes_over")
class KeepsAllInMind(Healthy):
    """Knows only resources that the same process has made."""

    def open(self, config: Json) -> None:
        super().open(config)
        self.made: set[str] = set()

    def create(self, spec: Json) -> str:
        external_id = super().create(spec)
        self.made.add(external_id)
        return external_id

    def list(self) -> list[Json]:
        return [each for each in super().list() if each["external_id"] in {*self.made, "i-foreign"}]

    def wait(self, external_id: str) -> Json:
        if external_id not in self.made:
            raise sdk.DriverError("not_found", "never made")
        return super().wait(external_id)


@mutant("D8.3", "what_was_begun_is_gone_on_with")
class LocksWhatItDeletes(Healthy):
    """Leaves a lock behind if it dies while deleting."""

    def delete(self, external_id: str) -> None:
        lock = self.folder / f".lock-{Path(external_id).name}"
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            owner = lock.read_text()
            if owner and not Path(f"/proc/{owner}").exists():
                raise sdk.DriverError("conflict", "somebody else is deleting it") from None
            return self.until_done(lock)
        lock.write_text(str(os.getpid()))
        time.sleep(0.03)
        super().delete(external_id)
        lock.unlink(missing_ok=True)
        return None

    def until_done(self, lock: Path) -> None:
        while lock.exists():
            time.sleep(0.005)


def main() -> None:
    name = sys.argv[1]
    driver = Healthy if name == "Healthy" else MUTANTS[name][0]
    if driver is FallsOverByHand:
        os.environ["NODELAUNCH_DRIVER_SOCKET"].encode()  # it is not there
    sdk._Link = driver.Link
    sdk.serve(driver())


if __name__ == "__main__":
    main()
