"""Caffe's weight files, written with Caffe's own message definitions."""

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

HERE = Path(__file__).parent


def messages(folder):
    """The message classes of caffe.proto, by name."""
    compiled = folder / "caffe.desc"
    arguments = ["", f"-I{HERE}", f"--descriptor_set_out={compiled}", "caffe.proto"]
    assert protoc.main(arguments) == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"caffe.{name}")
        )
        for name in ("NetParameter", "V1LayerParameter")
    }


def write(path, blobs, *, old=False, kind="Convolution", double=False):
    """A .caffemodel of layers with blobs: ``blobs[layer]`` lists arrays.

    ``old`` writes them as Caffe did until 2014: in ``layers``, with four sides a shape.
    """
    classes = messages(path.parent)
    net = classes["NetParameter"](name="written by a test")
    for name, arrays in {"data": [], **blobs}.items():
        layer = (net.layers if old else net.layer).add(name=name)
        if old:
            types = classes["V1LayerParameter"].LayerType
            layer.type = types.Value("CONVOLUTION" if arrays else "NONE")
        else:
            layer.type = kind
        for array in arrays:
            blob = layer.blobs.add()
            if old:
                sides = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = sides
            else:
                blob.shape.dim.extend(array.shape)
            numbers = blob.double_data if double else blob.data
            numbers.extend(array.ravel().tolist())  # three times as fast as an array
    path.write_bytes(net.SerializeToString())
    return path
