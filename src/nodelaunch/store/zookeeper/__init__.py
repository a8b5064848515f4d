"""The store on ZooKeeper. ``store.py`` is the store; the other files are one part of it each."""
