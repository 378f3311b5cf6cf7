"""Score Distillation Sampling: the estimator `sds`."""
