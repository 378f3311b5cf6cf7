"""Asynchronous Score Distillation: the estimator `asd`."""
