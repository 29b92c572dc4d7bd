"""Promises: every picture that a person could read is read; nothing else than DecodeError comes out."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import SMALL, encoded, lean_environment, photograph, torchvision_crop
from PIL import Image

from jobs.datasets import index_dataset
from jobs.images import AwayError, DecodeError, Preprocessing, decode, decode_rows
from jobs.indexing.entry import to_table
from jobs.reading import read


class TestModes:
    @pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
    def test_other_colour_spaces_become_rgb(self, mode):
        form = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
        image = photograph(50, 45, mode)
        assert np.array_equal(decode(encoded(image, form), SMALL), torchvision_crop(image.convert("RGB"), SMALL))

    def test_cmyk_jpeg_looks_like_its_rgb(self):
        image = photograph(64, 64)
        ours = decode(encoded(image.convert("CMYK"), "JPEG", quality=100), SMALL).astype(int)
        assert np.abs(ours - decode(encoded(image), SMALL)).mean() < 3  # JPEG's own loss

    @pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
    def test_16_bit_grey_is_scaled_not_clipped(self, form):
        ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
        pixels = decode(encoded(Image.fromarray(ramp), form), Preprocessing(resize=None, crop=(64, 64)))
        expected = np.rint(ramp / 257)  # 65535 / 255 = 257: black stays black, white becomes 255
        assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=-1))

    @pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
    def test_transparency_lies_on_white(self, mode):
        image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))  # transparent red
        image.paste((0, 0, 0, 255), (0, 0, 4, 8))  # left half opaque black
        pixels = decode(encoded(image.convert(mode)), Preprocessing(resize=None, crop=(8, 8)))
        assert pixels[:, :4].max() == 0
        assert pixels[:, 4:].min() == 255

    def test_palette_with_a_transparent_entry(self):
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 255, 0, 10, 20, 30])
        image.paste(0, (0, 0, 4, 8))
        pixels = decode(encoded(image, transparency=0), Preprocessing(resize=None, crop=(8, 8)))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 7].tolist() == [10, 20, 30]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_undone(self, orientation):
        from PIL import ImageOps

        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(photograph(60, 44), "JPEG", exif=exif, quality=100)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert np.array_equal(decode(content, SMALL), torchvision_crop(upright, SMALL))

    def test_a_damaged_exif_block_does_not_spoil_the_picture(self):
        content = encoded(photograph(60, 44), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
        assert decode(content, SMALL).shape == (32, 32, 3)

    def test_one_pixel(self):
        assert decode(encoded(Image.new("RGB", (1, 1), "blue")), SMALL).reshape(-1, 3).tolist() == [[0, 0, 255]] * 1024

    def test_animations_show_their_first_frame(self):
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
        content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode(content, SMALL)[0, 0].tolist() == [255, 0, 0]


class TestWhatIsNoPicture:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "zero bytes"),
            (
                b"this is a text file named .jpg",
                "no picture in a known format; the 30 bytes start with b'this is a text f'",
            ),
            (encoded(photograph(60, 60), "JPEG")[:900], "damaged picture: .*truncated"),
            (encoded(photograph(60, 60), "JPEG")[:3], "damaged picture|no picture"),
            (encoded(Image.new("F", (9, 9)), "TIFF"), "32-bit float pixels have no defined white"),
            (encoded(Image.new("I", (9, 9), 70_000), "TIFF"), "32-bit integer pixels have no defined white"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
        ],
    )
    def test_is_refused_with_the_reason(self, content, reason):
        with pytest.raises(DecodeError, match=reason):
            decode(content, SMALL)

    def test_a_decompression_bomb_is_not_unpacked(self):
        bomb = bytearray(encoded(Image.new("1", (8, 8))))
        bomb[16:24] = (60_000).to_bytes(
            4, "big"
        ) * 2  # IHDR's width and height; the checksum is then wrong, as in any damage
        import zlib

        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        with pytest.raises(DecodeError, match=r"bomb|3600000000 pixels|exceeds limit"):
            decode(bytes(bomb), SMALL)

    def test_the_limit_holds_whatever_the_process_has_set(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        monkeypatch.setattr("jobs.images._PIXEL_LIMIT", 99)
        with pytest.raises(DecodeError, match="10 x 10 pixels are more than 99"):
            decode(encoded(photograph(10, 10)), SMALL)

    @settings(max_examples=200, deadline=None)
    @given(
        st.binary(max_size=400),
        st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF", b"P6 ", b"BM"]),
    )
    def test_random_bytes_are_pictures_or_refused(self, content, magic):
        _decodes_or_refuses(magic + content)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
    def test_damage_anywhere_is_decoded_or_refused(self, form):
        rng = np.random.default_rng(0)
        whole = encoded(photograph(40, 33), form)
        for _ in range(60):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), rng.integers(1, 6)):
                damaged[place] = rng.integers(256)
            _decodes_or_refuses(bytes(damaged))
            _decodes_or_refuses(whole[: rng.integers(len(whole))])


class TestDecodeRows:
    def test_the_folder_of_horrors(self, tmp_path):
        """Issue 2's list: readable ones are attributed, the others are failures with the reason."""
        exif = Image.Exif()
        exif[0x0112] = 6
        readable = {
            "cmyk.jpg": encoded(photograph(50, 50, "CMYK"), "JPEG"),
            "grey16.png": encoded(Image.fromarray(np.full((50, 50), 40_000, np.uint16))),
            "palette.png": encoded(photograph(50, 50, "P"), transparency=0),
            "rotated.jpg": encoded(photograph(60, 40), "JPEG", exif=exif),
            "pixel.png": encoded(photograph(1, 1)),
            "strip.png": encoded(photograph(30_000, 30)),
        }
        broken = {
            "text.jpg": (b"hello, I am a text file", "no picture in a known format"),
            "truncated.jpg": (encoded(photograph(99, 99), "JPEG")[:1500], "truncated"),
            "zero.jpg": (b"", "zero bytes"),
        }
        for name, content in (readable | {name: content for name, (content, _) in broken.items()}).items():
            (tmp_path / name).write_bytes(content)
        table = index_dataset(str(tmp_path)).index
        decoded = decode_rows(table, SMALL)
        keys = table["key"].to_pylist()
        assert [keys[row] for row in decoded.rows] == sorted(readable)
        assert decoded.pixels.shape == (6, 32, 32, 3)
        assert decoded.pixels.dtype == np.uint8
        assert {failure.key for failure in decoded.failures} == set(broken)
        for failure in decoded.failures:
            assert failure.stage == "decode"
            assert broken[failure.key][1] in failure.error
            assert keys[failure.image] == failure.key

    def test_200_random_files_and_every_picture_damaged_are_each_accounted_for(self, tmp_path):
        rng = np.random.default_rng(7)
        forms = {
            "jpg": "JPEG",
            "png": "PNG",
            "webp": "WEBP",
            "gif": "GIF",
            "bmp": "BMP",
            "tif": "TIFF",
            "jp2": "JPEG2000",
        }
        for number in range(70):
            suffix = [*forms][number % len(forms)]
            damaged = np.frombuffer(encoded(photograph(60, 50), forms[suffix]), np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 4)] ^= rng.integers(1, 256, 4, dtype=np.uint8)
            (tmp_path / f"damaged{number:03d}.{suffix}").write_bytes(damaged.tobytes())
        for number in range(200):
            suffix = [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif"][number % 6]
            (tmp_path / f"{number:03d}{suffix}").write_bytes(rng.bytes(int(rng.integers(0, 4000))))
        decoded = decode_rows(index_dataset(str(tmp_path)).index, SMALL)
        assert sorted([*decoded.rows.tolist(), *(failure.image for failure in decoded.failures)]) == list(range(270))
        assert len(decoded.rows) > 10  # damage that a decoder doesn't see is no failure
        assert all("\n" not in failure.error for failure in decoded.failures)

    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        """Four images whose reads fail as `store.fails(key, count)` says; waits cost nothing and are kept."""
        for name in "abcd":
            Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
        store = _Store(index_dataset(str(tmp_path)).index)
        monkeypatch.setattr("jobs.fetching.read", store.read)
        monkeypatch.setattr("jobs.images.time.sleep", store.waits.append)
        return store

    def test_a_read_that_succeeds_later_costs_no_image(self, store):
        store.fails = lambda key, count: key == "b" and count < 3
        decoded = decode_rows(store.index, SMALL)
        assert decoded.rows.tolist() == [0, 1, 2, 3]
        assert store.order == ["a", "b", "c", "d", "b", "b"]  # put off behind the others

    def test_one_that_never_does_is_a_failure_with_its_attempts(self, store):
        for error, waits in ((OSError(5, "Input/output error"), 2), (AwayError("500 Internal Server Error"), 5)):
            store.reset(error)
            store.fails = lambda key, _: key == "b"
            decoded = decode_rows(store.index, SMALL)
            assert decoded.rows.tolist() == [0, 2, 3]
            (failure,) = decoded.failures
            assert (failure.image, failure.stage, failure.attempts) == (1, "read", waits + 1)
            assert str(error) in failure.error

    @pytest.mark.parametrize("since", [0, 2])
    def test_a_store_that_goes_away_is_no_fault_of_the_images(self, store, since):
        store.fails = lambda *_: len(store.order) > since
        with pytest.raises(AwayError, match=r"the store of /.*/[a-d].png does not answer: 503"):
            decode_rows(store.index, SMALL)
        assert 45 < sum(store.waits) < 100  # seconds: longer than a restart, shorter than the driver waits for a decode

    def test_no_rows_is_no_images(self):
        decoded = decode_rows(to_table([]), SMALL)
        assert decoded.pixels.shape == (0, 32, 32, 3)
        assert decoded.failures == ()

    def test_row_numbers_are_those_of_the_index(self, tmp_path):
        for name in "abc":
            Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
        table = index_dataset(str(tmp_path)).index.slice(1)
        assert decode_rows(table, SMALL).rows.tolist() == [1, 2]


class _Store:
    def __init__(self, index):
        self.index = index
        self.reset(AwayError("503 Slow Down"))

    def reset(self, error):
        self.error, self.order, self.waits = error, [], []
        self.fails = lambda *_: False

    def read(self, uri, *place):
        key = Path(uri).stem
        self.order.append(key)
        if self.fails(key, self.order.count(key)):
            raise self.error
        return read(uri, *place)


def test_decoding_needs_no_torch():
    """Decode workers start in a second and share no memory with a model."""
    code = "import sys, jobs.images, jobs.datasets; print({'torch', 'torchvision', 'ray'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=lean_environment()
    )
    assert out.stdout.strip() == "set()"


def _decodes_or_refuses(content: bytes) -> None:
    try:
        pixels = decode(content, SMALL)
    except DecodeError as error:
        message = str(error)
    else:
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8
        return
    assert message
    assert "\n" not in message
