"""Keeps nodes ready before they are requested: for labels with ``min-ready``, and for machines that exist already."""
