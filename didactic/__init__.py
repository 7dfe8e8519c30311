"""Policies over a few outcomes, trained by gradient beside their exact optima: figures 1 to 5 of the paper."""
