"""SDS-Bridge: the estimator `bridge`."""
