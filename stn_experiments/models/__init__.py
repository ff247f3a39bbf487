"""Networks and their parts. ``SpatialTransformer`` works in any other network as well."""

from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import View

__all__ = ["SpatialTransformer", "View"]
