"""Former name of `nodelaunch.sdk.faults`."""

from nodelaunch.sdk.faults import FileFaults

__all__ = ["FileFaults"]
