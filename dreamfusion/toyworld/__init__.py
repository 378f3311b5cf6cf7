"""A toy world of procedural objects: training data of the embedded prior, and ground truth."""
