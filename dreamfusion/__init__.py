"""Text to 3D by Score Distillation Sampling (DreamFusion, arXiv:2209.14988).

The public names stand in __init__.pyi; each is imported when it is first asked for. They are kept
stable: what is renamed stays there under its old name for two minor versions.
"""

import lazy_loader

from dreamfusion.utils.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
