"""Scenes: objects with parameters that render images, and are optimised."""
