"""Access to hosts: name resolution, scans of SSH host keys, trial logins."""
