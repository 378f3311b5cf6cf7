"""All settings of a run, and the layers that set them."""
