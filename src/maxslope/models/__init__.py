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
from maxslope.models.zoo import Normalized, from_timm, from_torchvision, hugging_face

__all__ = [
    "Normalized",
    "cache_folder",
    "digits_cnn",
    "digits_cnn_robust",
    "digits_mlp",
    "from_timm",
    "from_torchvision",
    "hugging_face",
    "load_model",
    "load_state",
    "load_weights",
    "two_moons_gelu",
    "two_moons_relu",
]
