"""What a network's first layer expects: the input recipe, which travels with the weights."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Raw uint8 RGB → (x · maximum / 255 - mean) / std, in the given order of channels."""

    mean: tuple[float, float, float]
    """In the network's order of channels and its range."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    maximum: float = 1.0
    """What white becomes before the mean is taken off: 1, or 255."""
    order: Literal["rgb", "bgr"] = "rgb"

    def normalise(self, image_BxHxWx3: jax.Array) -> jax.Array:
        """RGB (B, H, W, 3), uint8 or any float dtype in [0, 255] → float32 in the network's order."""
        x = image_BxHxWx3.astype(jnp.float32)
        x = x if self.order == "rgb" else x[..., ::-1]
        mean, std = (jnp.array(values, jnp.float32).reshape(1, 1, 1, 3) for values in (self.mean, self.std))
        return (x / (255.0 / self.maximum) - mean) / std


# DLDL-v2: the authors' code uses these for every data set, faces in general included.
FACES = Inputs((0.5958, 0.4637, 0.4065), (0.2693, 0.2409, 0.2352))
IMAGENET = Inputs((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Inputs((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # [-1, 1]: TensorFlow's habit
CAFFE_VGG16 = Inputs((103.939, 116.779, 123.68), maximum=255.0, order="bgr")
CAFFE_VGG_FACE = Inputs((93.5940, 104.7624, 129.1863), maximum=255.0, order="bgr")
CAFFE_DEX = Inputs((104.00699, 116.66877, 122.67891), maximum=255.0, order="bgr")

INPUTS = {
    "faces": FACES,
    "imagenet": IMAGENET,
    "half": HALF,
    "caffe_vgg16": CAFFE_VGG16,
    "caffe_vgg_face": CAFFE_VGG_FACE,
    "caffe_dex": CAFFE_DEX,
}
