"""Process 1 of a container: forwards signals to the launcher, and reaps orphaned processes.

A process whose parent has exited becomes a child of process 1, and stays a zombie until process 1 waits for it. The
launcher can't do that: it would take the exit codes of driver processes from the tasks that wait for them. So the
launcher runs as a child of process 1. Source: ``tini`` and ``docker run --init`` do the same.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def is_first_process() -> bool:
    return os.getpid() == 1


def run_as_child(work: Callable[[], int]) -> int:
    """Run *work* in a child process and return its exit code; reap all other children meanwhile.

    The exit code of a child that a signal ended is 128 plus the signal's number, as in a shell.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # no signal is lost before the child can receive it
    child = os.fork()
    if child == 0:
        _be_the_child(work)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _frame: _pass_on(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _be_the_child(work: Callable[[], int]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = 1
    try:
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  no caller above reports it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)
