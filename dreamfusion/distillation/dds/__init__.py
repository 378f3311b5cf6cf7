"""Delta Denoising Score: the estimator `dds`."""
