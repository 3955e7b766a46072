"""Foreign weights: from the files the world has to a network here, and back. No torch, no Caffe, nothing executed.

w = agejax.convert.read("resnet18-f37072fd.pth", backbone="resnet18")
w.model.apply(w.variables, image_BxHxWx3, train=False)["logits"]
"""

from agejax.convert.reading import read
from agejax.convert.weights import Weights, export, sentence, write

__all__ = ["Weights", "export", "read", "sentence", "write"]
