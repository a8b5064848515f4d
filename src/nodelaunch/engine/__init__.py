"""The coroutines that do the work: watch, decide, launch, hand out, take back, clean up.

``serve/`` has the scheduler, the pools and the handlers of requests, ``launch/`` makes nodes, ``cleanup/`` deletes
them, ``supply/`` keeps nodes ready. ``view/`` is what all of these look at: the launcher's copy of the records. What
does *not* belong here: what is decided (decisions), and how the store, a cloud or SSH is talked to. The engine is
handed ports for all of these.
"""
