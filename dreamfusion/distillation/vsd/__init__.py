"""Variational Score Distillation: the estimator `vsd`."""
