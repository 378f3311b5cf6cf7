"""Priors: pretrained diffusion models with their text encoders. Only this package uses diffusers.

A prior is a folder in diffusers' layout: the one shipped with the package, a path, or a model of
the hub. Importing this package is cheap; loading a model is not. The names of __init__.pyi are
imported at their first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
