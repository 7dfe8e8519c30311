"""Hydra configuration files, one folder per package and `shared` for all of them, and their `schema`."""
