"""torchvision's segmentation networks, to be trained and measured like the paper's."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Peer"]


class Peer(nn.Module):
    """torchvision's FCN or DeepLab v3 on a ResNet-50, for images as in this library.

    ``forward`` takes images (N, 3, H, W), RGB, 0 to 255, and returns logits (N, C, H,
    W). The networks pad by themselves, and normalise as their ImageNet weights want.
    ``weights="imagenet"`` downloads torchvision's weights of the backbone.

    >>> with torch.device("meta"):
    ...     Peer("fcn_resnet50", 11)(torch.empty(2, 3, 64, 96)).shape
    torch.Size([2, 11, 64, 96])
    """

    def __init__(
        self,
        name: Literal["fcn_resnet50", "deeplabv3_resnet50"],
        num_classes: int,
        weights: Literal["imagenet"] | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        from torchvision.models import ResNet50_Weights, segmentation

        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.scale = scale
        backbone = ResNet50_Weights.IMAGENET1K_V1 if weights else None
        self.body = getattr(segmentation, name)(
            weights=None, weights_backbone=backbone, num_classes=num_classes
        )
        for kind, values in (
            ("mean", (0.485, 0.456, 0.406)),
            ("deviation", (0.229, 0.224, 0.225)),
        ):
            self.register_buffer(
                kind, 255 * torch.tensor(values)[:, None, None], persistent=False
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N, C, H, W)."""
        logits: Tensor = self.body((images - self.mean) / self.deviation)["out"]
        return logits

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (N, C, H, W) of images, enlarged by ``scale`` first."""
        size = images.shape[2:]
        larger = [round(side * self.scale) for side in size]
        grown = F.interpolate(images.float(), larger, mode="bilinear", antialias=True)
        training = self.training
        self.eval()
        shares = self(grown).softmax(1)
        self.train(training)
        return F.interpolate(shares, tuple(size), mode="bilinear", antialias=True)
