"""The schema of every configuration: types, ranges, meanings and legal combinations of all keys."""
