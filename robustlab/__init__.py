"""How does the amount of training data change a classifier's accuracy and its robustness?

Start with :mod:`robustlab.attacks` (a plain torch library) or the command ``robustlab --help``.
"""

__version__ = "0.1.0"
