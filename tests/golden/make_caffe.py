"""Writes golden/caffe/*: two networks through protobuf's own library, and what OpenCV computes with them.

In this folder, with protobuf and OpenCV 4 (5 reads no Caffe): `protoc --python_out=. caffe.proto`, of BVLC/caffe, then
`python make_caffe.py`.
"""

from pathlib import Path

import caffe_pb2
import cv2
import numpy as np
from google.protobuf import text_format

FOLDER = Path(__file__).parent / "caffe"
SHAPES = {"conv1": (4, 3, 3, 3), "conv2": (6, 2, 3, 3), "fc": (5, 96)}


def main():
    rng = np.random.default_rng(0)
    arrays = {"image": rng.normal(size=(1, 3, 8, 8))}
    for name, shape in SHAPES.items():
        arrays[f"{name}/weight"] = rng.normal(size=shape) * (0.1 if name == "fc" else 1)
        arrays[f"{name}/bias"] = rng.normal(size=shape[0])
    arrays |= {"bn1/mean": rng.normal(size=4), "bn1/var": rng.uniform(1, 2, 4), "bn1/factor": np.array([2.0])}
    arrays |= {"scale1/weight": rng.uniform(0.5, 1, 4), "scale1/bias": rng.normal(size=4)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for name, network in (("v1", v1(arrays)), ("v2", v2(arrays))):
        (FOLDER / f"{name}.caffemodel").write_bytes(network.SerializeToString())
        arrays[f"{name}/prob"] = run(network, arrays["image"])
    np.savez_compressed(FOLDER / "run.npz", **arrays)


def run(network, image: np.ndarray) -> np.ndarray:
    bare = caffe_pb2.NetParameter()
    bare.CopyFrom(network)
    for layer in (*bare.layer, *bare.layers):
        del layer.blobs[:]
    net = cv2.dnn.readNetFromCaffe(text_format.MessageToString(bare).encode(), network.SerializeToString())
    net.setInput(image)
    return net.forward()


def fill(layer, arrays: dict[str, np.ndarray], *names: str):
    """V1 layers get the four sizes of old, and differences, as a snapshot may hold them."""
    old = isinstance(layer, caffe_pb2.V1LayerParameter)
    for name in names:
        blob, array = layer.blobs.add(), arrays[name]
        if old:
            blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
            blob.diff.extend(np.ones(array.size))
        else:
            blob.shape.dim.extend(array.shape)
        blob.data.extend(array.reshape(-1).tolist())
    return layer


def v1(arrays: dict[str, np.ndarray]):
    network = caffe_pb2.NetParameter(name="old", input=["data"], input_dim=[1, 3, 8, 8])
    kinds = caffe_pb2.V1LayerParameter

    def add(name, kind, bottom):
        return network.layers.add(name=name, type=kind, bottom=[bottom], top=[name])

    layer = fill(add("conv1", kinds.CONVOLUTION, "data"), arrays, "conv1/weight", "conv1/bias")
    layer.convolution_param.MergeFrom(caffe_pb2.ConvolutionParameter(num_output=4, kernel_size=[3], pad=[1]))
    layer.blobs_lr.extend([1, 2])
    add("relu1", kinds.RELU, "conv1")
    layer = fill(add("conv2", kinds.CONVOLUTION, "relu1"), arrays, "conv2/weight", "conv2/bias")
    layer.convolution_param.MergeFrom(caffe_pb2.ConvolutionParameter(num_output=6, kernel_size=[3], pad=[1], group=2))
    add("pool", kinds.POOLING, "conv2").pooling_param.MergeFrom(caffe_pb2.PoolingParameter(kernel_size=2, stride=2))
    layer = fill(add("fc", kinds.INNER_PRODUCT, "pool"), arrays, "fc/weight", "fc/bias")
    layer.inner_product_param.num_output = 5
    add("prob", kinds.SOFTMAX, "fc")
    return network


def v2(arrays: dict[str, np.ndarray]):
    network = caffe_pb2.NetParameter(name="new")

    def add(name, kind, bottom):
        return network.layer.add(name=name, type=kind, bottom=[bottom] * bool(bottom), top=[name])

    add("data", "Input", "").input_param.shape.add(dim=[1, 3, 8, 8])
    layer = fill(add("conv1", "Convolution", "data"), arrays, "conv1/weight", "conv1/bias")
    layer.convolution_param.MergeFrom(caffe_pb2.ConvolutionParameter(num_output=4, kernel_size=[3], pad=[1]))
    layer = fill(add("bn1", "BatchNorm", "conv1"), arrays, "bn1/mean", "bn1/var", "bn1/factor")
    layer.batch_norm_param.MergeFrom(caffe_pb2.BatchNormParameter(eps=1e-3, use_global_stats=True))
    fill(add("scale1", "Scale", "bn1"), arrays, "scale1/weight", "scale1/bias").scale_param.bias_term = True
    add("relu1", "ReLU", "scale1")
    layer = fill(add("conv2", "Convolution", "relu1"), arrays, "conv2/weight", "conv2/bias")
    more = {"kernel_h": 3, "kernel_w": 3, "pad": [1, 1], "group": 2}
    layer.convolution_param.MergeFrom(caffe_pb2.ConvolutionParameter(num_output=6, **more))
    add("pool", "Pooling", "conv2").pooling_param.MergeFrom(caffe_pb2.PoolingParameter(kernel_size=2, stride=2))
    layer = fill(add("fc", "InnerProduct", "pool"), arrays, "fc/weight", "fc/bias")
    layer.inner_product_param.num_output = 5
    add("prob", "Softmax", "fc")
    return network


if __name__ == "__main__":
    main()
