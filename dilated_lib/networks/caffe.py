"""Caffe's weight files, read without Caffe.

A ``.caffemodel`` is one protocol buffer message, NetParameter. Of its public definition
(BVLC/caffe, ``src/caffe/proto/caffe.proto``) only what holds weights is declared here;
the rest is skipped.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from torch import Tensor

__all__ = ["read_caffemodel"]

# name, number and kind of each field that is read; kinds in capitals are messages
_MESSAGES = {
    "BlobShape": [("dim", 1, "int64*")],
    "Blob": [
        ("num", 1, "int64"),
        ("channels", 2, "int64"),
        ("height", 3, "int64"),
        ("width", 4, "int64"),
        ("data", 5, "bytes"),  # packed floats, which are bytes, and stay bytes here
        ("shape", 7, "BlobShape"),
        ("double_data", 8, "bytes"),
    ],
    "OldLayer": [("name", 4, "string"), ("blobs", 6, "Blob*")],
    "Layer": [("name", 1, "string"), ("blobs", 7, "Blob*")],
    "Net": [("layers", 2, "OldLayer*"), ("layer", 100, "Layer*")],
}


def _declared() -> Any:
    """Return the class of the message Net, declared from the table above.

    Built at run time, the declarations need neither protobuf's compiler nor a generated
    file. Fields that are not declared are skipped as protobuf skips unknown ones.
    """
    file = FileDescriptorProto(package="caffe_weights")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            kind, repeated = kind.removesuffix("*"), kind.endswith("*")
            label = "REPEATED" if repeated else "OPTIONAL"
            entry = message.field.add(name=field, number=number)
            entry.label = FieldDescriptorProto.Label.Value(f"LABEL_{label}")
            if kind in _MESSAGES:
                entry.type_name = f".caffe_weights.{kind}"
            else:
                entry.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("caffe_weights.Net"))


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the blobs of a Caffe model: LAYER.weight, and LAYER.bias if there are two.

    Both fields for layers are read: ``layers`` of 2014, and ``layer`` since. Shapes are
    as written, so that a bias may have ones in front. Layers without blobs are left
    out.

    Raises ValueError for a layer with more than two blobs, two layers of one name, and
    a blob whose shape does not match its numbers, and protobuf's DecodeError for a file
    that is not such a message.

    >>> from tempfile import TemporaryDirectory
    >>> model = "a20615 0a026663 3a0f 3a030a0102 2a080000803f00000040"  # fc: 1 and 2
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "net.caffemodel"
    ...     _ = file.write_bytes(bytes.fromhex(model))
    ...     read_caffemodel(file)
    {'fc.weight': tensor([1., 2.])}
    """
    net = _declared()()
    net.ParseFromString(path.read_bytes())
    tensors: dict[str, Tensor] = {}
    for layer in (*net.layers, *net.layer):
        if len(layer.blobs) > 2:
            raise ValueError(
                f"layer {layer.name} has {len(layer.blobs)} blobs; weights and a bias "
                "are two"
            )
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            name = f"{layer.name}.{kind}"
            if name in tensors:
                raise ValueError(f"two layers are called {layer.name}")
            tensors[name] = _tensor(name, blob)
    if not tensors:
        raise ValueError(f"{path.name} holds no weights; is it a Caffe model?")
    return tensors


def _tensor(name: str, blob: Any) -> Tensor:
    numbers = (
        np.frombuffer(blob.data, "<f4")
        if blob.data
        else np.frombuffer(blob.double_data, "<f8")
    )
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    if numbers.size != math.prod(shape):
        raise ValueError(f"{name} has shape {shape}, but {numbers.size} numbers")
    return torch.tensor(numbers, dtype=torch.float32).reshape(shape)
