"""Attribution maps as pictures: Captum's functions with Captum's options, and panels that compare methods on one scale.

Takes numpy arrays and returns matplotlib figures; needs neither torch nor a display.
"""

from attribution.visualization.images import visualize_image_attr, visualize_image_attr_multiple
from attribution.visualization.panels import Entry, Map, contact_sheet, overlay, panel, save
from attribution.visualization.scale import (
    colours,
    enlarge,
    full_colour,
    is_one_sided,
    normalise,
    plane,
    scale_of,
    shared_scale,
)
from attribution.visualization.series import visualize_timeseries_attr

__all__ = [
    "Entry",
    "Map",
    "colours",
    "contact_sheet",
    "enlarge",
    "full_colour",
    "is_one_sided",
    "normalise",
    "overlay",
    "panel",
    "plane",
    "save",
    "scale_of",
    "shared_scale",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_timeseries_attr",
]
