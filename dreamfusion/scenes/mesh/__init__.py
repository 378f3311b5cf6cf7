"""A mesh of the user's, whose colours are a field on its surface: the scene `mesh`."""
