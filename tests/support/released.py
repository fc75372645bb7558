"""The released networks as their definitions say, for the tests.

Written from ``models/*_deploy.prototxt`` of fyu/dilation, not from the library. A layer
is a line: its name, channels, kernel size, dilation and padding.
"""

from dataclasses import dataclass

VGG = """
conv1_1 64 3 1 0
conv1_2 64 3 1 0
pool1
conv2_1 128 3 1 0
conv2_2 128 3 1 0
pool2
conv3_1 256 3 1 0
conv3_2 256 3 1 0
conv3_3 256 3 1 0
pool3
conv4_1 512 3 1 0
conv4_2 512 3 1 0
conv4_3 512 3 1 0
conv5_1 512 3 2 0
conv5_2 512 3 2 0
conv5_3 512 3 2 0
fc6 4096 7 4 0
fc7 4096 1 1 0
"""


@dataclass(frozen=True)
class Released:
    """A definition: its lines, the tiles' height and width, and the cells they give."""

    lines: str
    input_size: tuple[int, int]
    cells: tuple[int, int]
    parameters: int

    def layers(self):
        """(name, channels, kernel size, dilation, padding) of each convolution."""
        for line in self.lines.split("\n"):
            name, *numbers = line.split() or ["pool"]
            if not name.startswith("pool"):
                yield name, *map(int, numbers)

    def prototxt(self, height, width, fc_channels=4096):
        """The definition in Caffe's own format, for another input size."""
        sides = "".join(f" dim: {side}" for side in (1, 3, height, width))
        yield f'input: "data" input_shape {{{sides} }}'
        bottom = "data"
        for line in filter(None, self.lines.split("\n")):
            name, *numbers = line.split()
            head = f'layer {{ name: "{name}" bottom: "{bottom}" top: "{name}" type:'
            bottom = name
            if name.startswith("pool"):
                shape = "kernel_size: 2 stride: 2"
                yield f'{head} "Pooling" pooling_param {{ {shape} }} }}'
                continue
            channels, kernel, dilation, pad = map(int, numbers)
            if name in ("fc6", "fc7"):
                channels = fc_channels
            if name.endswith("upsample"):
                yield (
                    f'{head} "Deconvolution" convolution_param {{ bias_term: false '
                    f"num_output: {channels} kernel_size: {kernel} stride: 8 "
                    f"pad: {pad} group: {channels} }} }}"
                )
                continue
            yield (
                f'{head} "Convolution" convolution_param {{ num_output: {channels} '
                f"kernel_size: {kernel} dilation: {dilation} pad: {pad} }} }}"
            )
            if "final" not in name:
                yield (
                    f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" '
                    f'top: "{name}" }}'
                )


NETWORKS = {
    "dilation8_pascal_voc": Released(
        VGG
        + """fc-final 21 1 1 0
ct_conv1_1 42 3 1 33
ct_conv1_2 42 3 1 0
ct_conv2_1 84 3 2 0
ct_conv3_1 168 3 4 0
ct_conv4_1 336 3 8 0
ct_conv5_1 672 3 16 0
ct_fc1 672 3 1 0
ct_final 21 1 1 0
""",
        (900, 900),
        (66, 66),
        # 13 convolutions of VGG-16, fc6, fc7; final; 15422 C² + 97 C
        14_714_688 + 102_764_544 + 16_781_312 + 21 * 4097 + 6_803_139,
    ),
    "dilation8_camvid": Released(
        VGG
        + """final 11 1 1 0
ctx_conv1_1 11 3 1 1
ctx_conv1_2 11 3 1 1
ctx_conv2_1 11 3 2 2
ctx_conv3_1 11 3 4 4
ctx_conv4_1 11 3 8 8
ctx_conv5_1 11 3 16 16
ctx_fc1 11 3 1 1
ctx_final 11 1 1 0
""",
        (900, 1100),
        (66, 91),
        # 64 C² + 8 C
        14_714_688 + 102_764_544 + 16_781_312 + 11 * 4097 + 64 * 121 + 8 * 11,
    ),
    "dilation7_kitti": Released(
        VGG
        + """final 11 1 1 0
ctx_conv1_1 11 3 1 1
ctx_conv1_2 11 3 1 1
ctx_conv2_1 11 3 2 2
ctx_conv3_1 11 3 4 4
ctx_conv4_1 11 3 8 8
ctx_fc1 11 3 1 1
ctx_final 11 1 1 0
""",
        (852, 1640),
        (60, 159),  # 158.5, rounded up three times
        14_714_688 + 102_764_544 + 16_781_312 + 11 * 4097 + 55 * 121 + 7 * 11,
    ),
    "dilation10_cityscapes": Released(
        VGG
        + """final 19 1 1 0
ctx_conv1_1 19 3 1 1
ctx_conv1_2 19 3 1 1
ctx_conv2_1 19 3 2 2
ctx_conv3_1 19 3 4 4
ctx_conv4_1 19 3 8 8
ctx_conv5_1 19 3 16 16
ctx_conv6_1 19 3 32 32
ctx_conv7_1 19 3 64 64
ctx_fc1 19 3 1 1
ctx_final 19 1 1 0
ctx_upsample 19 16 1 4
""",
        (1396, 1396),
        (128, 128),
        # and the deconvolution's 16 × 16 for each class
        14_714_688
        + 102_764_544
        + 16_781_312
        + 19 * 4097
        + 82 * 361
        + 10 * 19
        + 19 * 256,
    ),
}
