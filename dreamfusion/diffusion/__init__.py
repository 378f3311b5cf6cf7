"""The mathematics of a diffusion model: conditions, noising, predictions, guidance."""
