"""The release; nothing else says it."""

__version__ = "0.1.0"
