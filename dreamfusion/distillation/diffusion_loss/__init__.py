"""The diffusion loss: the estimator `diffusion_loss`."""
