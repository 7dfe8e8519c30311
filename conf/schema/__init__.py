"""The schema of all configurations: the type, range, meaning and legal combinations of every key."""
