"""The coroutines of a launcher: they watch, decide, launch nodes, hand them out, take them back and clean up.

``serve/`` has the scheduler, the pools and the handlers of requests, ``launch/`` creates nodes, ``cleanup/`` deletes
them, ``supply/`` keeps nodes ready. All of these read ``view/``, the launcher's copy of the records. Decisions are in
`nodelaunch.decisions`. The engine reaches the store, clouds and SSH only through the ports that it is given.
"""
