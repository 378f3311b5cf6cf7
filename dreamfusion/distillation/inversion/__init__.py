"""DDIM inversion: the estimators `ism` and `sdi`."""
