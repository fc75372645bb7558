"""What the welcome page shows: a photograph, its label map, and the explorer.

`make notebooks` runs it. The photograph is scikit-image's chelsea.png, by Stéfan van
der Walt, who waived all rights (CC0).
"""

from pathlib import Path

import numpy as np

import dilated_lib as dl
from dilated_lib.data.pictures import read_picture
from dilated_lib.prediction.segmentation import Segmentation

BOOK = Path(__file__).parent
PHOTO = BOOK / "assets" / "cat.jpg"


def label_map() -> Segmentation:
    """The photograph through the library's network for photographs."""
    return dl.predict(PHOTO)


def explorer() -> str:
    """Three layers of three taps, dilations 1, 2 and 4, to be touched."""
    return dl.Explorer("k3,k3d2,k3d4")._repr_html_()


def main() -> None:
    found, photo = label_map(), read_picture(PHOTO)
    cat = found.labels == [*found.palette].index("cat")
    shown = np.where(cat[..., None], photo, photo // 4 + 191)  # all else is pale
    figure = dl.plot.pictures({"a photograph": photo, "what is called cat": shown})
    figure.axes[1].contour(cat, [0.5], colors="#d55e00", linewidths=2)
    # a fifth of a PNG's size, and sharp on a dense screen
    figure.savefig(BOOK / "assets" / "segmented.webp", pil_kwargs={"quality": 90})
    (BOOK / "explorer.html").write_text(explorer() + "\n")


if __name__ == "__main__":
    main()
