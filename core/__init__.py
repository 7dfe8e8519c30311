"""Objectives, reward transforms and estimators of KL-regularised RL. Pure torch, no config, no logging."""
