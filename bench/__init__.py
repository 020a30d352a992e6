"""Benchmarks: what the service costs, measured on the machine at hand."""
