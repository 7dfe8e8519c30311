"""Configurations of other programs, REINVENT 4 and Saturn, converted into experiments of this package."""
