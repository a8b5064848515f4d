"""The coroutines that do the work: watch, decide, launch, hand out, take back, clean up.

``serve/`` has the scheduler, the pools and the handlers of requests, ``launch/`` creates nodes, ``cleanup/`` deletes
them, ``supply/`` keeps nodes ready. All of these read ``view/``, the launcher's copy of the records. Decisions are in
`nodelaunch.decisions`. The engine reaches the store, clouds and SSH only through the ports that it is given.
"""
