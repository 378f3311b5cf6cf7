"""Score Distillation Sampling and its close relatives."""
