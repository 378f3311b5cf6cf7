"""A mesh of the user's, whose colours are a field on its surface: the scene `mesh`.

settings  the section `scene` of the configuration
scene     the field, its optimiser, and images of the mesh
atlas     textures: the mesh's own coordinates or new ones, baking
model     reads mesh files
patch     writes the textures into the user's file
"""
