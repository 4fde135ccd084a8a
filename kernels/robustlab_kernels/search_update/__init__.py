"""search_update: the per-image bounds of c or of eps after a search step."""

from robustlab_kernels.search_update.reference import search_update

__all__ = ["search_update"]
