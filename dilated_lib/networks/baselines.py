"""torchvision's segmentation networks, trained and measured like the paper's."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dilated_lib.networks.imagenet import published_weights
from dilated_lib.values import one_of, positive, whole

__all__ = ["Baseline"]

Name = Literal["fcn_resnet50", "deeplabv3_resnet50"]


class Baseline(nn.Module):
    """torchvision's FCN or DeepLab v3 on a ResNet-50, behind the paper's interface.

    ``forward`` takes images (N, 3, H, W), RGB, 0 to 255, and returns logits of the
    pixels (N, C, H, W). It normalises the images as the ImageNet weights want them. The
    logits are those of ``front``; ``context`` is the identity, and no margin is needed,
    because these networks pad.

    Raises TypeError or ValueError for impossible arguments.

    Args:
        name: The network.
        num_classes: C, the number of classes.
        weights: "imagenet" downloads torchvision's weights of the backbone.
        scale: How many times as large pictures are made before they are segmented.

    >>> with torch.device("meta"):
    ...     Baseline("fcn_resnet50", 11)(torch.empty(2, 3, 64, 96)).shape
    torch.Size([2, 11, 64, 96])
    """

    stride, margin = 1, 0

    def __init__(
        self,
        name: Name,
        num_classes: int,
        weights: Literal["imagenet"] | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        from torchvision.models import ResNet50_Weights, segmentation

        super().__init__()
        one_of("name", name, get_args(Name))
        self.num_classes = whole("num_classes", num_classes, 1)
        self.scale = positive("scale", scale)
        body = getattr(segmentation, name)(
            weights_backbone=None, num_classes=self.num_classes
        )
        if weights:
            state = published_weights(ResNet50_Weights.IMAGENET1K_V1.url)
            kept = {key: state[key] for key in state if not key.startswith("fc.")}
            body.backbone.load_state_dict(kept)
        self.front = _Logits(body)
        self.context = nn.Identity()
        self.mean: Tensor
        self.deviation: Tensor
        for kind, values in (
            ("mean", (0.485, 0.456, 0.406)),
            ("deviation", (0.229, 0.224, 0.225)),
        ):
            self.register_buffer(
                kind, 255 * torch.tensor(values)[:, None, None], persistent=False
            )

    def normalised(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) as the weights want them: mean 0, deviation 1."""
        return (images - self.mean) / self.deviation

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, C, H, W) from images (N, 3, H, W)."""
        logits: Tensor = self.front(self.normalised(images))
        return logits


class _Logits(nn.Module):
    """A network of torchvision without the dictionary around its logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)["out"]
        return logits
