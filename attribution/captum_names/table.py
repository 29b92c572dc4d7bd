"""CAPTUM: every class of Captum's by name, with its arguments and the Method and place that answer for it."""

from attribution.captum_names.input_rows import INPUT_ROWS
from attribution.captum_names.layer_rows import LAYER_ROWS
from attribution.captum_names.neuron_rows import NEURON_ROWS
from attribution.captum_names.row import Row

CAPTUM: dict[str, Row] = INPUT_ROWS | LAYER_ROWS | NEURON_ROWS
