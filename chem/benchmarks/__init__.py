"""Benchmarks of sample efficiency: their tasks and figures, and what runs every method on every task."""
