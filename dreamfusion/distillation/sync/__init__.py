"""Fitting the scene to predictions in turn: the estimator `sync`."""
