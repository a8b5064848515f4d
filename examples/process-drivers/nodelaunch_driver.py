"""The driver's end of the nodelaunch driver contract, version 1, in one file without dependencies.

Copy this file next to your driver:

    from nodelaunch_driver import Driver, DriverError, serve

    class MyCloud(Driver):
        name, version, summary = "mycloud", "1.0", "machines of my cloud"
        def create(self, spec): ...
        def wait(self, external_id): ...

    if __name__ == "__main__":
        serve(MyCloud())

Each call runs in its own thread, so methods may block; `self.cancelled()` returns True when the launcher no longer
waits for the answer. For a driver that the launcher can't start, there is `--listen PATH`: the driver then serves
concurrent sessions at a unix socket, each with a copy of the driver. Implements docs/driver-contract.md for Python 3.9
and later on Linux.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import stat
import sys
import threading
import traceback

CONTRACT = {"min": 1, "max": 1}
TOKEN_FD = 3
MAX_LINE = 1 << 20
PAGE_BYTES = 256 << 10
TOKEN_S = 10.0
"""Deadline for the first line of a connection to a driver that listens."""

_call = threading.local()
"""The call that the current thread answers."""


class DriverError(Exception):
    """An error for the launcher; docs/driver-contract.md lists the kinds and scopes."""

    def __init__(self, kind, message, scope="request", retry_after_s=None, external_id=None, may_exist=False):
        super().__init__(message)
        self.data = {
            "kind": kind,
            "scope": scope,
            "retry_after_s": retry_after_s,
            "external_id": external_id,
            "may_exist": may_exist or external_id is not None,
        }


class Driver:
    """The base class of drivers. Methods return dictionaries as in the contract, and raise DriverError."""

    name = version = summary = maintainer = licence = ""
    capabilities = ()
    """Any of host_keys, console_log, zones: each has a method of the same name below. local_processes: a process in its
    own session is an instance, and outlives the driver. faults: `nodelaunch driver check` breaks the cloud with the
    fault methods below."""
    schemas = None
    """JSON Schemas of the driver's own options: ``provider``, ``pool`` and ``label``."""
    example = None
    """Options of a provider that work on any machine, if possible; {folder} is a new directory."""
    config = None
    """The provider's configuration, set before `open`."""

    # -- for your use -----------------------------------------------------------------------------------------------

    def cancelled(self):
        """Return True if the current call was cancelled or its deadline has passed."""
        return _call.cancelled.is_set()

    def pause(self, seconds):
        """Sleep for *seconds*. Raises: DriverError as soon as the call is cancelled."""
        if _call.cancelled.wait(seconds):
            raise DriverError("cancelled", "the launcher gave the call up")

    def progress(self, stage, external_id=None):
        """Report the progress of the current call, with the id of the instance as soon as it is known."""
        _call.link.note("progress", {"call": _call.id, "stage": stage, "external_id": external_id})

    def log(self, event, level="info", **fields):
        """Write an entry to the launcher's log. Never log a secret."""
        _call.link.note("log", {"level": level, "event": event, "fields": fields})

    def driver_data(self):
        """Return the last driver data of the current call's instance, if the launcher still has it."""
        return _call.params.get("driver_data")

    def label(self, pool, label):
        """Return the configuration of a label. Raises: DriverError for an unknown label."""
        for in_pool in self.config.get("pools", []):
            for each in in_pool.get("labels", []):
                if (in_pool["name"], each["name"]) == (pool, label):
                    return each
        raise DriverError("config", f"pool {pool} has no label {label}", scope="label")

    # -- to be overridden -------------------------------------------------------------------------------------------

    def open(self, config):
        """Start to work for the provider with this configuration. Called once, before any other call."""

    def traits(self, _label):
        """Return how to log in to nodes of a label, given the label's configuration."""
        return {}

    def create(self, _spec):
        """Create an instance with ``spec["metadata"]`` and return its id without waiting until it runs."""
        raise DriverError("unsupported", "this driver makes nothing", scope="label")

    def wait(self, _external_id):
        """Wait until the instance runs and return it."""
        raise DriverError("not_found", "there is no such instance")

    def delete(self, external_id):
        """Delete the instance and wait until it is gone. Return at once if it does not exist."""

    def list(self):
        """Return all instances, including those of other users."""
        return []

    def limits(self):
        """Return the limits of instances, cores and ram; a resource that is not named has no limit."""
        return {}

    def usage(self, pool, label):
        """Return the usage of one node of the label."""
        self.label(pool, label)
        return {"instances": 1}

    def ready(self, pool, label):
        """Return True if the cloud has all resources of the label, such as its image."""
        self.label(pool, label)
        return True

    def host_keys(self, _external_id):
        return []

    def console_log(self, _external_id):
        return None

    def zones(self):
        return []

    def faults(self):
        """Return the faults by name, each with the ``call`` that fails and the ``kind`` of the error, where known."""
        return {}

    def set_fault(self, name):
        """Set a fault for every process with this configuration. Return the id of the instance for foreign-instance."""

    def clear_fault(self, name):
        """Clear a fault."""

    def resources(self):
        """Return all resources according to the cloud itself by name, each with the id of its instance."""
        return {}

    def close(self):
        """Close connections; instances stay."""


def serve(driver):
    """Run the program: serve the launcher that started it until the launcher hangs up, or listen. Never returns."""
    if sys.argv[1:2] == ["--listen"] and len(sys.argv) == 3:
        sys.exit(_listen(driver, sys.argv[2]))
    path = os.environ.get("NODELAUNCH_DRIVER_SOCKET")
    if path is None:
        print(f"nodelaunch-driver-{driver.name} {driver.version}\n{driver.summary}\n")
        print("This is a driver of nodelaunch, which starts it by itself for each provider that says")
        print(f"    driver: {driver.name}")
        print("It has to be on the PATH, or its absolute path stands there in place of the name.\n")
        print("If nodelaunch can't start it, as in a container or under a debugger, start it with")
        print("    --listen PATH")
        print("to listen at the unix socket PATH until SIGTERM; nodelaunch driver check unix:PATH checks it there.")
        sys.exit(0)
    with os.fdopen(TOKEN_FD) as handed_over:
        token = handed_over.read().strip()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    _Link(driver, connection, token).run()
    os._exit(0)  # do not wait for running threads


def _listen(driver, path):
    """Serve a session for each connection until SIGTERM or Ctrl-C. Return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(path)
        listening.bind(path)
    except OSError as error:
        print(f"{path}: {error.strerror or error}", file=sys.stderr)
        return 1
    try:
        os.chmod(path, 0o600)  # before any client can connect
        listening.listen()
        print(f"listening at {path}", file=sys.stderr, flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_session, args=(copy.copy(driver), connection), daemon=True).start()
    except (SystemExit, KeyboardInterrupt):
        return 0
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _make_room(path):
    """Remove a stale socket at *path*. Raises: OSError if the path is in use."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(0, "exists and is not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        try:
            trying.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(0, "another process already listens there; end that process, or choose another path")


def _session(driver, connection):
    """Serve one connection; its first line has the token."""
    link = _Link(driver, connection, "")
    link.is_only = False
    with connection, link.stream, contextlib.suppress(ConnectionError):
        connection.settimeout(TOKEN_S)
        try:
            line = link.stream.readline(MAX_LINE)
            if not line:
                return  # a client only tested if the driver listens
            link.token = json.loads(line)["token"]
            if not isinstance(link.token, str) or not link.token:
                raise ValueError("no token")
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            print('a connection was refused: its first line is not {"token": "..."}', file=sys.stderr, flush=True)
            return
        connection.settimeout(None)
        try:
            link.run()
        finally:
            link.end()


class _Link:
    """The connection: requests in, each answered by a thread."""

    is_only = True
    """True if the process ends with this connection."""

    is_open = False

    def __init__(self, driver, connection, token):
        self.driver = driver
        self.stream = connection.makefile("rb")
        self.connection = connection
        self.token = token
        self.sending = threading.Lock()
        self.calls = {}
        self.nonces = None
        self.is_proved = False
        self.lists = {}

    def run(self):
        while True:
            line = self.stream.readline(MAX_LINE + 1)
            if not line.endswith(b"\n"):
                return  # end of file, or a line that is too long: both are the end
            message = json.loads(line)
            if message.get("method") == "$/cancel":
                if message["params"]["id"] in self.calls:
                    self.calls[message["params"]["id"]].set()
            elif "method" in message and "id" in message:
                self.calls[message["id"]] = threading.Event()
                threading.Thread(target=self.answer, args=(message,), daemon=True).start()

    def end(self):
        """Cancel the pending calls, and close the driver."""
        for cancelled in list(self.calls.values()):
            cancelled.set()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)  # threads may still have something to say
        if self.is_open:
            self.driver.close()

    def send(self, message):
        data = json.dumps(dict(message, jsonrpc="2.0"), separators=(",", ":")).encode() + b"\n"
        with self.sending:
            try:
                self.connection.sendall(data)
            except OSError:  # the launcher is gone
                if self.is_only:
                    os._exit(0)

    def note(self, method, params):
        self.send({"method": method, "params": params})

    def answer(self, message):
        number, params = message["id"], message.get("params", {})
        _call.link, _call.id, _call.params, _call.cancelled = self, number, params, self.calls[number]
        deadline = threading.Timer(min(params.get("deadline_s", 3600.0), threading.TIMEOUT_MAX), _call.cancelled.set)
        deadline.daemon = True
        deadline.start()
        try:
            self.send({"id": number, "result": self.perform(message["method"], params)})
        except DriverError as error:
            self.send({"id": number, "error": {"code": -32000, "message": str(error), "data": error.data}})
        except Exception as error:  # noqa: BLE001  the top of a thread
            traceback.print_exc()
            data = {"kind": "internal", "may_exist": message["method"] == "instance.create"}
            text = f"{type(error).__name__}: {error}"
            self.send({"id": number, "error": {"code": -32000, "message": text, "data": data}})
        finally:
            deadline.cancel()
            del self.calls[number]

    def perform(self, method, params):
        driver = self.driver
        if method == "handshake.hello":
            self.nonces = (params["nonce"], secrets.token_hex(16))
            return {"protocol": CONTRACT, "nonce": self.nonces[1], "proof": self.proof("driver")}
        if method == "handshake.authenticate":
            return self.authenticate(params)
        if not self.is_proved:
            raise DriverError("auth", "the handshake comes first")
        simple = {
            "driver.open": lambda: self.open(params),
            "driver.close": self.close,
            "ping": dict,
            "instance.create": lambda: {"external_id": driver.create(params["spec"])},
            "instance.wait": lambda: {"instance": driver.wait(params["external_id"])},
            "instance.delete": lambda: driver.delete(params["external_id"]) or {},
            "instance.list": lambda: self.page(params.get("cursor")),
            "instance.host_keys": lambda: {"host_keys": driver.host_keys(params["external_id"])},
            "instance.console_log": lambda: {"text": driver.console_log(params["external_id"])},
            "cloud.zones": lambda: {"zones": driver.zones()},
            "quota.limits": lambda: {"amounts": driver.limits()},
            "label.usage": lambda: {"amounts": driver.usage(params["pool"], params["label"])},
            "label.ready": lambda: {"is_ready": driver.ready(params["pool"], params["label"])},
            "fault.list": lambda: {"faults": [{"name": name, **more} for name, more in driver.faults().items()]},
            "fault.set": lambda: {"external_id": driver.set_fault(params["name"])},
            "fault.clear": lambda: driver.clear_fault(params["name"]) or {},
            "cloud.resources": lambda: {"resources": driver.resources()},
        }
        if method not in simple:
            raise DriverError("unsupported", f"there is no method {method}", scope="provider")
        return simple[method]()

    def proof(self, role):
        text = ":".join((role, *self.nonces))
        return hmac.new(self.token.encode(), text.encode(), hashlib.sha256).hexdigest()

    def authenticate(self, params):
        if self.nonces is None or not hmac.compare_digest(params["proof"], self.proof("launcher")):
            raise DriverError("auth", "the launcher did not prove that it has the token")
        self.is_proved = True
        names = ("name", "version", "summary", "maintainer", "licence", "capabilities", "schemas")
        identity = {name: getattr(self.driver, name) for name in names if getattr(self.driver, name)}
        if self.driver.example is not None:
            identity["example"] = {"provider": self.driver.example}
        return identity

    def open(self, params):
        self.driver.config = params["provider"]
        self.driver.open(params["provider"])
        self.is_open = True
        labels = [
            {"pool": pool["name"], "label": label["name"], "traits": self.driver.traits(label)}
            for pool in params["provider"].get("pools", [])
            for label in pool.get("labels", [])
        ]
        return {"labels": labels}

    def close(self):
        self.is_open = False
        self.driver.close()
        return {}

    def page(self, cursor):
        """Return a page of the list; the rest is kept under a cursor."""
        rest = self.driver.list() if cursor is None else self.lists.pop(cursor, [])
        size = count = 0
        while count < len(rest) and size < PAGE_BYTES:
            size += len(json.dumps(rest[count]))
            count += 1
        following = secrets.token_hex(8) if count < len(rest) else None
        if following:
            self.lists[following] = rest[count:]
        return {"instances": rest[:count], "next_cursor": following}
