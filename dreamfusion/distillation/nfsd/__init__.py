"""Noise-Free Score Distillation: the estimator `nfsd`."""
