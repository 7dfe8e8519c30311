"""Policies over a few outcomes, trained by gradient and compared with their exact optima (figures 1 to 5)."""
