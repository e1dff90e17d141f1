"""What single images look like, in numbers."""

import numpy as np


def describe_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of each image; the same for an image whatever it is in a batch with.

    Args:
        images: uint8 (b, h, w, c).

    Returns:
        float64 (b) by name: those of `describe_grey`, and for each channel i its mean_i and standard deviation std_i,
        on the scale of the pixels, 0 to 255.
    """
    moments = [_compute_moments(images[..., channel].astype(np.int32)) for channel in range(images.shape[3])]
    return {
        **describe_grey(images),
        **{f"mean_{channel}": mean for channel, (mean, _) in enumerate(moments)},
        **{f"std_{channel}": np.sqrt(variance) for channel, (_, variance) in enumerate(moments)},
    }


def describe_grey(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of each image without its colours; the same for an image whatever it is in a batch with.

    Grey is ITU-R 601 luma of three channels, the mean of any other number. The Laplacian is the four-neighbour one, of
    inner pixels; an image without any has sharpness 0.

    Args:
        images: uint8 (b, h, w, c).

    Returns:
        float64 (b) by name: brightness (mean of grey) and contrast (its standard deviation), 0 to 255; sharpness
        (variance of the Laplacian of grey).

    References:
        J. L. Pech-Pacheco, G. Cristobal, J. Chamorro-Martinez, J. Fernandez-Valdivia, "Diatom autofocusing in
        brightfield microscopy: a comparative study", ICPR 2000 (the variance of the Laplacian).
    """
    num_channels = images.shape[3]
    weights = np.array([299, 587, 114] if num_channels == 3 else [1] * num_channels, np.int32)
    grey = (images[..., 0] if num_channels == 1 else images @ weights // weights.sum()).astype(np.int32)
    sides = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    brightness, variance = _compute_moments(grey)
    _, sharpness = _compute_moments(sides - 4 * grey[:, 1:-1, 1:-1])
    return {"brightness": brightness, "contrast": np.sqrt(variance), "sharpness": sharpness}


def _compute_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each row of int32 (b, h, w), float64 (b); 0 of no values.

    Sums are exact integers of any length: no rounding that depends on how numpy cuts them up, and none but the last.
    """
    n = max(1, values.shape[1] * values.shape[2])
    totals = values.sum((1, 2), dtype=np.int64).tolist()
    squares = (values * values).sum((1, 2), dtype=np.int64).tolist()
    variances = [(n * square - total * total) / (n * n) for total, square in zip(totals, squares, strict=True)]
    return np.array(totals, np.float64) / n, np.array(variances, np.float64)
