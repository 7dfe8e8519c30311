"""MARA in the trainers of other libraries. Each module imports the trainer that it is named after, and no other."""
