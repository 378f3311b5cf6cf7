"""Score Distillation via Inversion: the estimator `sdi`."""
