"""The scene, and how it is rendered."""
