"""The store on ZooKeeper. ``store.py`` is the store; each other file is one part of it."""
