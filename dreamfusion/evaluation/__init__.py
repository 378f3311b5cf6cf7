"""How good runs are: their pictures shown to a judge, their meshes checked, in a table."""
