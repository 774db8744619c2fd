"""Measurements of Hansa: `python -m benchmarks [--quick] [--json] [names ...]`."""
