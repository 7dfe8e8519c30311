"""MARA inside trainers of other libraries."""
