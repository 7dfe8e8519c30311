"""Tasks: prompts, a reward, and what counts as which answer."""
