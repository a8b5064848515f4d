"""Keeps nodes ready before anybody asks: of labels with ``min-ready``, and of machines that exist already."""
