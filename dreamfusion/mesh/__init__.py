"""From a scene to a mesh, and from a mesh to files and images."""
