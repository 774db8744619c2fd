"""A coopetitive run whose processes end, at any message: started again it gives the same model, but for rounding at random."""

from __future__ import annotations
