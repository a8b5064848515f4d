"""Reads CPU time, memory and sockets of processes on Linux. Source: proc(5)."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ESTABLISHED = "01"
_CPUCLOCK_SCHED = 2


class Memory(NamedTuple):
    """Current and peak resident memory, in MiB."""

    rss_mib: float
    peak_mib: float


def cpu_s(pid: int) -> float:
    """Return user and system time of all threads of *pid* so far, in seconds; 0 if the process has ended.

    Source: clock_getcpuclockid(3) of the GNU C library; it counts in nanoseconds, where ``stat`` counts in 10 ms.
    """
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def machine_cpu_s() -> float:
    """Return the busy time of all CPUs of this machine so far, in seconds."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS_PER_S


def memory(pid: int) -> Memory:
    """Return the memory of *pid*. Raises: OSError if the process has ended."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    rss, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(round(rss, 1), round(peak, 1))


def tcp_ports(pid: int) -> set[int]:
    """Return the local ports of the established TCP connections of *pid*."""
    inodes = _socket_inodes(pid)
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _ESTABLISHED and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return inodes
