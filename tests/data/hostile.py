"""Makes image files that break careless readers, each with the one outcome this project documents for it."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Pixels(NamedTuple):
    """What is seen: height and width, and the colour of the middle of the upper left quarter."""

    height: int
    width: int
    colour: tuple[int, int, int]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
_TO_STORED = {  # what undoes the turn that an EXIF orientation asks for
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def red(width=24, height=16):
    """Red in the upper left quarter, blue elsewhere."""
    image = Image.new("RGB", (width, height), BLUE)
    ImageDraw.Draw(image).rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=RED)
    return image


def turned(orientation, format_, **options):
    stored = red().transpose(_TO_STORED[orientation]) if orientation > 1 else red()
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(stored, format_, exif=exif, **options)


def png(width, height, depth, colour_type, rows, *, before=b"", after=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rgb_rows(image):
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image))


def patched(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def make_ycck():
    """Stored Y 55, Cb and Cr 128, K 255 make C, M and Y 200; as Adobe inverts them, that is grey 200."""
    data = encode(Image.new("CMYK", (24, 16), (200, 127, 127, 0)), "JPEG", quality=95)
    return patched(data, data.index(b"Adobe") + 11, b"\x02")


def sof(data):
    """Where the frame header of a JPEG starts: marker, length, precision, height, width."""
    return next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)


def make_palette_png():
    image = Image.new("P", (24, 16), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return encode(image, "PNG", transparency=bytes([255, 0]))


def make_orientation_after_pixels():
    exif = Image.Exif()
    exif[0x0112] = 3
    stored = red().transpose(_TO_STORED[3])
    return png(24, 16, 8, 2, rgb_rows(stored), after=chunk(b"eXIf", exif.tobytes()[6:]))


def make_good():
    """File name -> (bytes, what is seen)."""
    frames = [Image.new("RGB", (24, 16), colour) for colour in (GREEN, RED)]
    several = {"save_all": True, "append_images": frames[1:]}
    jpeg, seen = encode(red(), "JPEG", quality=95, subsampling=0), Pixels(16, 24, RED)
    wide16 = struct.pack(">3H", 0xC801, 0x64FE, 0x3280) * 24
    good = {
        "plain.jpg": (jpeg, seen),
        "progressive.jpg": (encode(red(), "JPEG", quality=95, subsampling=0, progressive=True), seen),
        "grey.jpg": (encode(Image.new("L", (24, 16), 90), "JPEG"), Pixels(16, 24, (90, 90, 90))),
        "cmyk.jpg": (encode(Image.new("CMYK", (24, 16), (0, 255, 255, 0)), "JPEG", quality=95), seen),
        "ycck.jpg": (make_ycck(), Pixels(16, 24, (200, 200, 200))),
        "bad_icc.jpg": (encode(red(), "JPEG", quality=95, subsampling=0, icc_profile=b"no profile"), seen),
        "bad_icc.png": (encode(red(), "PNG", icc_profile=b"no profile"), seen),
        "bad_exif.jpg": (encode(red(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), seen),
        "tail.jpg": (jpeg + b"left over " * 20, seen),
        "grey16.png": (encode(Image.fromarray(np.full((16, 24), 40000, np.uint16)), "PNG"), Pixels(16, 24, (156,) * 3)),
        "colour16.png": (png(24, 16, 16, 2, (b"\0" + wide16) * 16), Pixels(16, 24, (200, 100, 50))),
        "bilevel.png": (encode(Image.new("1", (24, 16), 1), "PNG"), Pixels(16, 24, WHITE)),
        "palette_alpha.png": (make_palette_png(), Pixels(16, 24, WHITE)),
        "alpha.png": (encode(Image.new("RGBA", (24, 16), (255, 0, 0, 51)), "PNG"), Pixels(16, 24, (255, 204, 204))),
        "grey_alpha.png": (encode(Image.new("LA", (24, 16), (0, 51)), "PNG"), Pixels(16, 24, (204, 204, 204))),
        "late_exif.png": (make_orientation_after_pixels(), seen),
        "one.png": (encode(Image.new("RGB", (1, 1), RED), "PNG"), Pixels(1, 1, RED)),
        "tall.jpg": (encode(Image.new("RGB", (1, 65500), GREEN), "JPEG", subsampling=0), Pixels(65500, 1, GREEN)),
        "wide.png": (encode(Image.new("RGB", (65500, 1), GREEN), "PNG"), Pixels(1, 65500, GREEN)),
        "moving.gif": (encode(frames[0], "GIF", **several), Pixels(16, 24, GREEN)),
        "moving.webp": (encode(frames[0], "WEBP", lossless=True, **several), Pixels(16, 24, GREEN)),
        "moving.png": (encode(frames[0], "PNG", **several), Pixels(16, 24, GREEN)),
        "plain.webp": (encode(red(), "WEBP", lossless=True), seen),
        "lossy.webp": (encode(Image.new("RGB", (24, 16), (200, 200, 200)), "WEBP"), Pixels(16, 24, (200, 200, 200))),
        "clear.webp": (encode(Image.new("RGBA", (24, 16), (255, 0, 0, 0)), "WEBP"), Pixels(16, 24, WHITE)),
        "plain.bmp": (encode(red(), "BMP"), seen),
        "really_a_png.jpg": (encode(red(), "PNG"), seen),
        "really_a_jpeg.webp": (jpeg, seen),
        "turned_6.png": (turned(6, "PNG"), seen),
        "turned_5.webp": (turned(5, "WEBP", lossless=True), seen),
    }
    for orientation in range(1, 9):
        good[f"turned_{orientation}.jpg"] = (turned(orientation, "JPEG", quality=95, subsampling=0), seen)
    return good


def make_bad():
    """File name -> (bytes, reason)."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    jpeg, png_, webp, gif = (encode(noise, name) for name in ("JPEG", "PNG", "WEBP", "GIF"))
    plain = encode(red(), "JPEG")
    return {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "corrupt"),
        "cut.png": (png_[: len(png_) // 2], "corrupt"),
        "cut.webp": (webp[: len(webp) // 2], "corrupt"),
        "cut.gif": (gif[: len(gif) // 2], "corrupt"),
        "cut.bmp": (encode(noise, "BMP")[:2000], "corrupt"),
        "nothing.jpg": (b"", "empty"),
        "start.jpg": (b"\xff\xd8\xff", "corrupt"),
        "header.png": (png_[:33], "corrupt"),
        "signature.png": (png_[:8], "corrupt"),
        "start.webp": (webp[:16], "corrupt"),
        "no_width.png": (png(0, 4, 8, 2, b"\0" * 4), "corrupt"),
        "flipped.png": (patched(png_, 60, bytes([png_[60] ^ 255])), "corrupt"),
        "twelve_bit.jpg": (patched(plain, sof(plain) + 4, b"\x0c"), "corrupt"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "format"),
        "zip.png": (b"PK\x03\x04" + bytes(60), "format"),
        "fits.png": (b"SIMPLE  =                    T" + bytes(60), "format"),
        "psd.png": (b"8BPS\0\x01" + bytes(60), "format"),
        "tiff.png": (encode(red(), "TIFF"), "format"),
        "riff.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "format"),
        "zeros.jpg": (bytes(5000), "format"),
    } | make_bombs()


def make_bombs():
    """File name -> (bytes, "too large"): a few bytes that ask for gigabytes."""
    plain, gif = encode(red(), "JPEG"), encode(red(), "GIF")
    bmp, lossy = encode(red(), "BMP"), encode(red(), "WEBP")
    lossless = encode(red(), "WEBP", lossless=True)
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + (16382).to_bytes(3, "little") * 2
    huge = {
        "bomb.png": png(30000, 30000, 8, 2, bytes(100)),
        "144_mpx.png": png(12000, 12000, 1, 0, bytes(1501 * 12000)),
        "bomb.jpg": patched(plain, sof(plain) + 5, struct.pack(">HH", 65500, 65500)),
        "bomb.gif": patched(gif, 6, struct.pack("<HH", 65535, 65535)),
        "bomb.bmp": patched(bmp, 18, struct.pack("<ii", 100_000, 100_000)),
        "bomb_lossy.webp": patched(lossy, 26, struct.pack("<HH", 16383, 16383)),
        "bomb_lossless.webp": patched(lossless, 21, struct.pack("<I", 16382 | 16382 << 14)),
        "bomb_canvas.webp": b"RIFF" + struct.pack("<I", 22 + len(lossy) - 12) + b"WEBP" + canvas + lossy[12:],
    }
    return {name: (data, "too large") for name, data in huge.items()}


def write_corpus(folder: Path):
    """All of it as files, and what only a file system makes: links, a FIFO. File name -> what is seen, or the reason."""
    folder.mkdir(parents=True)
    outcomes = {}
    for name, (data, outcome) in (make_good() | make_bad()).items():
        (folder / name).write_bytes(data)
        outcomes[name] = outcome
    (folder / "link.jpg").symlink_to("plain.jpg")
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return outcomes | {"link.jpg": outcomes["plain.jpg"], "dangling.jpg": "unreadable", "pipe.jpg": "unreadable"}
