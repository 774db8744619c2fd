"""Fixtures: three servers with fresh keys, and a place to draw at."""

from three_servers import place, servers

__all__ = ["place", "servers"]
