"""HiFA: the estimator `hifa`."""
