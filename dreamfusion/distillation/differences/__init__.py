"""Differences of predictions: the estimators `csd`, `nfsd`, `bridge`, `asd` and `dds`."""
