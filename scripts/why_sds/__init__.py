"""The claims of DreamFusion, each as a small experiment with the embedded prior; see
docs/why-sds.md."""
