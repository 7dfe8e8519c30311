"""Hydra configuration: one folder a package, `shared` groups on everyone's search path, and `schema`."""
