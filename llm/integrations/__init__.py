"""MARA in the trainers of other libraries."""
