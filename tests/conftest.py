"""What tests of several folders share."""

from __future__ import annotations

from postgresql import postgresql

__all__ = ["postgresql"]
