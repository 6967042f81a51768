"""Small trained nets to attack."""

from maxslope.models.builtin import (
    cache_folder,
    digits_cnn,
    digits_cnn_robust,
    digits_mlp,
    two_moons_gelu,
    two_moons_relu,
)
from maxslope.models.load import load_model
from maxslope.models.weights import load_state, load_weights

__all__ = [
    "cache_folder",
    "digits_cnn",
    "digits_cnn_robust",
    "digits_mlp",
    "load_model",
    "load_state",
    "load_weights",
    "two_moons_gelu",
    "two_moons_relu",
]
