"""Figures of a launcher for Prometheus, for statsd, and for its status page."""
