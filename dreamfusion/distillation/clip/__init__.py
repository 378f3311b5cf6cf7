"""CLIP guidance: the estimator `clip`."""
