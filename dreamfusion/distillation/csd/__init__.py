"""Classifier Score Distillation: the estimator `csd`."""
