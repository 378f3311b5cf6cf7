"""DreamFusion's optimisation."""
