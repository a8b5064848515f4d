"""Deletes nodes and mends what nobody else will: the sweeper, one file for each thing it mends, and their work
queue."""
