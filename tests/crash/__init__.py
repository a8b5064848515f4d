"""The crash matrix: a launcher is killed at every point of every step, and all has to be well afterwards."""
