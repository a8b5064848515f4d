"""Installs drivers' packages, each into a separate environment: folders, lock files, and the calls of pip."""
