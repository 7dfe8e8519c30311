"""Tasks: prompts, a reward, and which answer a completion gives."""
