"""Objectives, reward transforms and gradient estimators of KL-regularised RL; only torch and the standard library."""
