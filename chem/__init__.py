"""Post-training of chemical language models: priors, oracles and molecule metrics."""
