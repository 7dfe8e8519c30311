"""Post-training of chemical language models: priors, oracles, molecule metrics."""
