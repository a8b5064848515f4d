"""The coroutines that do the work: watch, decide, launch, hand out, take back, clean up.

What does *not* belong here: how the store, a cloud or SSH is talked to. The engine is handed ports for all of these.
"""
