"""Text to 3D by Score Distillation Sampling (DreamFusion, arXiv:2209.14988).

The public names are in __init__.pyi; each is imported at its first use. The names are stable: a
renamed one stays available under its old name for two minor versions.
"""

import lazy_loader

from dreamfusion.utils.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
