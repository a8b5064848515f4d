"""The parent process of a driver: it makes sure that the driver never outlives the launcher. Run as a script.

    watchdog.py LIFELINE TOKEN GRACE COMMAND [ARGUMENT ...]

LIFELINE is a descriptor of a pipe whose other end only the launcher has. The end of this pipe means that the driver has
to exit, or that the launcher died. The driver then has GRACE seconds to exit by itself, because its connection has
ended, too. Afterwards the watchdog kills the remaining processes: the process group, and descendants outside of it. If
the launcher wrote a byte before, because the driver's instances are processes on this machine, the watchdog spares
processes in their own sessions. TOKEN is a descriptor that the driver gets as number 3. The watchdog is the driver's
parent and reaps its descendants. It exits with the driver's exit code; if it is killed, the driver is killed, too.

It is a separate process because a parent-death signal follows the thread that forked, and because setting one in a
fork of a program with threads is not safe. It must not import nodelaunch: it needs only the standard library on Linux.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TOKEN_FD = 3
TERMINATE_S = 0.5
"""Seconds between SIGTERM and SIGKILL to a process group."""


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def become_driver(keeper: int, token: int, command: list[str]) -> None:
    """Tie this child process to the life of its parent, then execute *command*."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    os.setpgid(0, 0)
    if token == TOKEN_FD:
        os.set_inheritable(TOKEN_FD, True)
    else:
        os.dup2(token, TOKEN_FD, inheritable=True)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606  that is its purpose
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(126)


def reap(driver: int) -> int | None:
    """Reap all children that exited. Return the driver's exit code if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == driver:
            found = os.waitstatus_to_exitcode(status)


def children(*, of_session: int | None = None) -> list[int]:
    """Return the children of this process, only those of one session if *of_session* is given."""
    found, me = [], str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has exited
            state, parent, _, session = fields[:4]
            if parent == me and state != "Z" and of_session in (None, int(session)):
                found.append(int(entry.name))
    return found


def signal_group(driver: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(driver, number)


def kill_all(driver: int, *, spares_sessions: bool) -> None:
    """Kill the group, and then every descendant: as their parents die they become children of this process."""
    session = os.getsid(0) if spares_sessions else None
    signal_group(driver, signal.SIGKILL)
    while left := children(of_session=session):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap(driver)
        time.sleep(0.01)
    reap(driver)


def watch(driver: int, lifeline: int, wakeup: int, grace_s: float) -> tuple[int, bool]:
    """Wait for the driver's exit, or force it. Return its exit code, and True if processes in their own sessions are
    spared.
    """
    steps = [(grace_s, signal.SIGTERM), (TERMINATE_S, signal.SIGKILL)]
    timeout: float | None = None
    spares_sessions = False
    poll = select.poll()
    for descriptor in (lifeline, wakeup):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]
        if wakeup in ready:
            os.read(wakeup, 512)
            code = reap(driver)
            if code is not None:
                return code, spares_sessions
        if lifeline in ready:
            if os.read(lifeline, 1):
                spares_sessions = True
            else:
                poll.unregister(lifeline)
                timeout = steps[0][0]
        elif not ready and steps:
            signal_group(driver, steps.pop(0)[1])
            timeout = steps[0][0] if steps else None


def main() -> int:
    lifeline, token, grace_s, command = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    os.set_inheritable(lifeline, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = os.getpid()
    driver = os.fork()
    if driver == 0:
        become_driver(keeper, token, command)
    os.close(token)
    with suppress(PermissionError, ProcessLookupError):  # the child may have done it, or exited
        os.setpgid(driver, driver)
    code, spares_sessions = watch(driver, lifeline, wakeup, grace_s)
    kill_all(driver, spares_sessions=spares_sessions)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
