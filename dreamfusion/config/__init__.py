"""Every setting of a run, and the layers that they come from."""
