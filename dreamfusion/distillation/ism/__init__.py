"""Interval Score Matching: the estimator `ism`."""
