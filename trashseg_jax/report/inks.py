"""Classes' colours as lines: dark enough on a light page, and light enough on a dark one."""

import numpy as np
from jaxtyping import Float, UInt8

DARKEST_ON_DARK, LIGHTEST_ON_LIGHT = 0.66, 0.62  # Oklab's lightness

# Ottosson 2020, "A perceptual color space for image processing": linear sRGB to Oklab.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def inks(colors: UInt8[np.ndarray, "k 3"]) -> tuple[list[str], list[str]]:
    """Returns each colour for light pages and for dark ones, as CSS writes it."""
    lab = to_oklab(colors)
    light, dark = lab.copy(), lab.copy()
    light[:, 0] = np.minimum(lab[:, 0], LIGHTEST_ON_LIGHT)
    dark[:, 0] = np.maximum(lab[:, 0], DARKEST_ON_DARK)
    return hex_colors(from_oklab(light)), hex_colors(from_oklab(dark))


def to_oklab(colors: UInt8[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3"]:
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T


def from_oklab(lab: Float[np.ndarray, "k 3"]) -> UInt8[np.ndarray, "k 3"]:
    """Returns the nearest sRGB colours, channel by channel, of those out of its reach."""
    cones = (lab @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0, 1)
    share = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * share).astype(np.uint8)


def hex_colors(colors: UInt8[np.ndarray, "k 3"]) -> list[str]:
    return ["#" + "".join(f"{channel:02x}" for channel in color) for color in colors.tolist()]
