"""What the welcome page shows: a photograph, its label map, and the explorer.

`make notebooks` runs it. The photograph is scikit-learn's china.jpg at CamVid's width,
by Daniel Büchele, CC BY 2.0.
"""

from pathlib import Path

import numpy as np

import dilated_lib as dl
from dilated_lib.data.pictures import read_picture
from dilated_lib.prediction.segmentation import Segmentation

BOOK = Path(__file__).parent
PHOTO = BOOK / "assets" / "pagoda.jpg"


def label_map() -> Segmentation:
    """The photograph through the small trained network."""
    return dl.predict(PHOTO)


def explorer() -> str:
    """Three layers of three taps, dilations 1, 2 and 4, to be touched."""
    return dl.Explorer("k3,k3d2,k3d4")._repr_html_()


def main() -> None:
    found = label_map()
    colours = np.array([*found.palette.values()], np.uint8)
    figure = dl.plot.pictures(
        {
            "a photograph": read_picture(PHOTO),
            "a label for each pixel": colours[found.labels],
        }
    )
    names = [*found.palette]
    for number in np.unique(found.labels):
        mask = found.labels == number
        if mask.mean() < 0.02:
            continue
        row = int(np.median(np.nonzero(mask)[0]))  # where the class is widest
        column = int(np.median(np.nonzero(mask[row])[0]))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        style = {"ha": "center", "va": "center", "size": "x-large", "bbox": box}
        figure.axes[1].text(column, row, names[number], **style)
    # a fifth of a PNG's size, and sharp on a dense screen
    figure.savefig(BOOK / "assets" / "segmented.webp", pil_kwargs={"quality": 90})
    (BOOK / "explorer.html").write_text(explorer() + "\n")


if __name__ == "__main__":
    main()
