"""Process 1 of a container: passes signals on to the launcher, and waits for whatever else ends.

A process whose parent is gone becomes a child of process 1, which has to wait for it, or it stays as a zombie. The
launcher itself can't: it would take the exit codes of drivers' processes from those who wait for them. So it runs as
the child of this. Source: what ``tini`` and ``docker run --init`` do.
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
    """The exit code of *work*, which is done in a child; all other children that there will be are waited for.

    A child that a signal ended counts as 128 and the signal's number, as in a shell.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # none gets lost before the child can be told of it
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
    except BaseException:  # noqa: BLE001  nobody above would tell of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)
