"""Reaches hosts by their names: resolves them, scans their SSH keys, tries a login."""
