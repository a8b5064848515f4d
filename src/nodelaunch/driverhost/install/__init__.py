"""Installs drivers' packages, each into an environment of its own: folders, lock files, and the calls of pip."""
