"""Estimates of the memory, tokens and steps of a run, without loading a model."""
