"""The configuration: its keys (models.py), and the reader of its files (file.py)."""
