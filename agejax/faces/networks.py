"""MTCNN's three networks with the weights of the `mtcnn` package, and the crops they look at.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, IEEE
Signal Processing Letters 23(10), 2016. The weights are files of ipazc/mtcnn 1.0 (MIT); a network takes them as that
package stores them: a list in the order kernel (HWIO), bias, PReLU slope, …, heads. Inputs are (pixel - 127.5) / 128.

Shapes: B images or crops, H and W pixels, S the side of a crop, P pixels of many images in one row.
"""

import hashlib
import importlib.util
import io
from functools import lru_cache, partial, reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from data_pipelines.errors import UserError

WEIGHTS = {
    "pnet.lz4": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet.lz4": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet.lz4": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}  # SHA-256
INSTALL, AGAIN = "pip install 'agejax[faces]'", "pip install --force-reinstall 'mtcnn==1.0.0'"


@lru_cache(maxsize=1)
def load_weights() -> tuple[list, list, list]:
    """The weights of P-, R- and O-Net on the default device, float32, read once per process.

    The files are pickles: one whose SHA-256 is not the known one is not opened. Raises UserError.
    """
    spec = importlib.util.find_spec("mtcnn")  # its own code would import TensorFlow
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"MTCNN's weights come with the package mtcnn, which is not installed: {INSTALL}")
    folder = Path(spec.submodule_search_locations[0], "assets", "weights")
    return tuple(jax.device_put(_read_checked(folder / name, digest)) for name, digest in WEIGHTS.items())


def _read_checked(file: Path, digest: str) -> list[np.ndarray]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); install it again: {AGAIN}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        wrong = f"SHA-256 {found[:12]}… is not that of mtcnn 1.0 ({digest[:12]}…)"
        raise UserError(f"{file}: {wrong}, so it was not opened; install it again: {AGAIN}")
    import joblib  # comes with mtcnn

    return joblib.load(io.BytesIO(data))


def pnet(weights: list, image_BxHxWx3: jax.Array, outside_BxHxW: jax.Array | None = None) -> tuple:
    """Is there a face in each 12 px cell? Offsets of its box (B, h, w, 4) and probability (B, h, w), float32.

    Stride 2: h = (H - 1) // 2 - 4, H and W at least 11. outside marks pixels that are not part of a picture; the only
    ones that matter are those next to the end of an odd row or column of pixels, where half a pooling window is free.
    """
    batch, height, width = image_BxHxWx3.shape[:3]
    if outside_BxHxW is None:
        outside_BxHxW = jnp.zeros((batch, height, width), bool)
    fill = (0, 0), (0, height % 2), (0, (2 - width) % 4)  # what pooling and _conv_by_two need; nothing for a canvas
    outside_BxHxW = jnp.pad(outside_BxHxW, fill, constant_values=True)
    a, b, c, d = _first_conv(jnp.pad(image_BxHxWx3, (*fill, (0, 0))), weights[0])
    no_right, no_below = outside_BxHxW[:, 2::2, 3::2, None], outside_BxHxW[:, 3::2, 2::2, None]
    rest = [jnp.where(no, a, x) for no, x in ((no_right, b), (no_below, c), (no_right | no_below, d))]
    x = _activate(reduce(jnp.maximum, rest, a), reduce(jnp.minimum, rest, a), *weights[1:3])
    x = _conv_by_two(x, *weights[3:6])
    x = _prelu(_conv(x, *weights[6:8]), weights[8])
    x = x[:, : (height - 1) // 2 - 4, : (width - 1) // 2 - 4]
    heads = _conv(x, jnp.concatenate([weights[9], weights[11]], -1), jnp.concatenate([weights[10], weights[12]]))
    return heads[..., :4], jax.nn.softmax(heads[..., 4:])[..., 1]


@jax.jit
def rnet(weights: list, crop_Bx24x24x3: jax.Array) -> tuple:
    """Offsets of the box (B, 4), in its widths and heights, and probability of a face (B,), float32."""
    x = _first_pooled(crop_Bx24x24x3, *weights[:3])
    x = _pool(_prelu(_conv(x, *weights[3:5]), weights[5]), 3)
    x = _prelu(_conv(x, *weights[6:8]), weights[8])
    x = _prelu(_dense(_flat(x), *weights[9:11]), weights[11])
    return _dense(x, *weights[12:14]), jax.nn.softmax(_dense(x, *weights[14:]))[:, 1]


@jax.jit
def onet(weights: list, crop_Bx48x48x3: jax.Array) -> tuple:
    """As rnet, and between the two the five points (B, 5, 2): x, y as shares of the box's width and height."""
    x = _first_pooled(crop_Bx48x48x3, *weights[:3])
    x = _pool(_prelu(_conv(x, *weights[3:5]), weights[5]), 3)
    x = _pool(_prelu(_conv(x, *weights[6:8]), weights[8]), 2)
    x = _prelu(_conv(x, *weights[9:11]), weights[11])
    x = _prelu(_dense(_flat(x), *weights[12:14]), weights[14])
    points_Bx5x2 = _dense(x, *weights[17:19]).reshape(-1, 2, 5).transpose(0, 2, 1)  # stored as five x, then five y
    return _dense(x, *weights[15:17]), points_Bx5x2, jax.nn.softmax(_dense(x, *weights[19:]))[:, 1]


def _first_conv(x_BxHxWx3, kernel) -> list[jax.Array]:
    """The convolution at (even or odd row, even or odd column): four (B, H/2 - 1, W/2 - 1, C). H and W are even.

    It is computed as one convolution of stride 2 with 4·C channels: with three channels in and so few out, only this
    fills the vector units (a fifth of the time on CPU).
    """
    kernels = [jnp.pad(kernel, ((y, 1 - y), (x, 1 - x), (0, 0), (0, 0))) for y in (0, 1) for x in (0, 1)]
    return jnp.split(_conv(x_BxHxWx3, jnp.concatenate(kernels, -1), stride=(2, 2)), 4, axis=-1)


def _first_pooled(x_BxHxWx3, kernel, bias, slope):
    """First convolution, PReLU and 3x3 pooling of stride 2, whose last window is cut off (padding SAME)."""
    four = _first_conv(x_BxHxWx3, kernel)
    return _activate(_pool_four(jnp.maximum, *four), _pool_four(jnp.minimum, *four), bias, slope)


def _pool_four(extreme, a, b, c, d):
    top, bottom = reduce(extreme, (a, b, _next(a, axis=2))), reduce(extreme, (c, d, _next(c, axis=2)))
    return reduce(extreme, (top, bottom, _next(top, axis=1)))


def _next(x, axis: int):
    """Each row or column replaced by the one after it; the last one stays."""
    size = x.shape[axis]
    return jnp.concatenate([lax.slice_in_dim(x, i, size, axis=axis) for i in (1, size - 1)], axis)


def _activate(largest, smallest, bias, slope):
    """The maximum of PReLU over a window of values, of which only the extremes are needed: PReLU rises, or is a V."""
    return jnp.maximum(_prelu(_biased(largest, bias), slope), _prelu(_biased(smallest, bias), slope))


def _conv_by_two(x, kernel, bias, slope):
    """Convolution and PReLU of a map of even width, two neighbours at once as twice as many channels: faster on CPU."""
    kernels = jnp.concatenate([jnp.pad(kernel, ((0, 0), (x, 1 - x), (0, 0), (0, 0))) for x in (0, 1)], -1)
    two = _biased(_conv(x, kernels, stride=(1, 2)), jnp.tile(bias, 2))
    return _prelu(two, jnp.tile(slope.reshape(-1), 2)).reshape(*two.shape[:2], -1, len(bias))


@jax.jit
def propose(weights: list, canvas_BxHxWx3: jax.Array) -> tuple:
    """pnet on canvases of float32 pixel values 0…255, negative where there is no picture; H and W even."""
    return pnet(weights, (canvas_BxHxWx3 - 127.5) / 128, canvas_BxHxWx3[..., 0] < 0)


@partial(jax.jit, static_argnames="size")
def crop_boxes(pixels_P: jax.Array, boxes_Bx4, start_B, height_B, width_B, size: int) -> jax.Array:
    """Boxes x1, y1, x2, y2 cut from their images and resized: float32 (B, size, size, 3), 0 outside of the image.

    pixels holds images row by row, uint32 RGBX; start, height and width say where the image of each box is. As
    TensorFlow's crop_and_resize on coordinates that the package has divided by W and H: bilinear, size samples from
    x1·(W-1)/W to x2·(W-1)/W, both ends included.
    """
    y0_BxS, y1_BxS, down_BxS, inside_y_BxS = _sample(boxes_Bx4[:, 1], boxes_Bx4[:, 3], height_B, size)
    x0_BxS, x1_BxS, along_BxS, inside_x_BxS = _sample(boxes_Bx4[:, 0], boxes_Bx4[:, 2], width_B, size)

    def pick(y_BxS, x_BxS):
        rows_BxS = start_B[:, None] + y_BxS * width_B[:, None]
        rgbx_BxSxS = pixels_P[rows_BxS[:, :, None] + x_BxS[:, None, :]]
        return jnp.stack([(rgbx_BxSxS >> shift) & 255 for shift in (0, 8, 16)], -1).astype(jnp.float32)

    def row(y_BxS):
        left, right = pick(y_BxS, x0_BxS), pick(y_BxS, x1_BxS)
        return left + (right - left) * along_BxS[:, None, :, None]

    top, bottom = row(y0_BxS), row(y1_BxS)
    crop_BxSxSx3 = (top + (bottom - top) * down_BxS[:, :, None, None] - 127.5) / 128
    inside_BxSxS = inside_y_BxS[:, :, None] & inside_x_BxS[:, None, :]
    return jnp.where(inside_BxSxS[..., None], crop_BxSxSx3, 0.0)


def _sample(first_B, last_B, length_B, size: int) -> tuple:
    """`size` positions along one axis: the pixel before, the pixel after, the share of the latter, inside or not."""
    end_B = (length_B - 1).astype(jnp.float32)
    first_B, last_B = (edge_B * (end_B / length_B) for edge_B in (first_B, last_B))
    at_BxS = first_B[:, None] + jnp.arange(size)[None] * ((last_B - first_B) / (size - 1))[:, None]
    inside_BxS = (at_BxS >= 0) & (at_BxS <= end_B[:, None])
    at_BxS = jnp.clip(at_BxS, 0, end_B[:, None])
    before_BxS = jnp.floor(at_BxS)
    after_BxS = jnp.minimum(before_BxS + 1, end_B[:, None])
    return before_BxS.astype(jnp.int32), after_BxS.astype(jnp.int32), at_BxS - before_BxS, inside_BxS


def _conv(x, kernel, bias=None, stride=(1, 1)):
    layout = ("NHWC", "HWIO", "NHWC")
    precision = lax.Precision.HIGHEST  # float32 on every device: a score beside its threshold must not depend on it
    y = lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=layout, precision=precision)
    return y if bias is None else _biased(y, bias)


def _dense(x, kernel, bias):
    return _biased(jnp.dot(x, kernel, precision=lax.Precision.HIGHEST), bias)


def _biased(x, bias):
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _prelu(x, slope):
    return jnp.maximum(x, 0) + slope.reshape((1,) * (x.ndim - 1) + (-1,)) * jnp.minimum(x, 0)


def _flat(x_BxHxWxC):
    """The weights were trained on maps with height and width swapped."""
    return x_BxHxWxC.transpose(0, 2, 1, 3).reshape(x_BxHxWxC.shape[0], -1)


def _pool(x, window: int):
    """The maximum of windows, stride 2, that lie within the map (as they do for 2 with padding SAME: its side is even).

    One axis at a time by slices: on CPU faster than reduce_window.
    """
    for axis in (1, 2):
        last = (x.shape[axis] - window) // 2 * 2
        x = reduce(jnp.maximum, (lax.slice_in_dim(x, i, i + last + 1, 2, axis) for i in range(window)))
    return x
