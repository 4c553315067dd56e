"""Benchmarks. They print ratios within one run; `make bench` runs the main four."""
