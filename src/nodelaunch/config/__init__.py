"""The configuration: what may stand in it (models.py) and how it is read from files (file.py)."""
