"""Pictures promise: Captum's numbers under Captum's options, one scale where one is asked for, nothing drawn where there is nothing."""

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from attribution import visualization
from attribution.visualization import (
    Entry,
    Map,
    contact_sheet,
    enlarge,
    full_colour,
    normalise,
    overlay,
    panel,
    save,
    scale_of,
    shared_scale,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
ATTR = RNG.normal(size=(24, 32, 3))


def draw(attr=ATTR, image=IMAGE, method="heat_map", sign="all", **options):
    return visualization.visualize_image_attr(attr, image, method, sign, use_pyplot=False, **options)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("sign", ["all", "positive", "negative", "absolute_value"])
@pytest.mark.parametrize("outlier_perc", [0, 2, 10])
@pytest.mark.captum
def test_heat_map_equals_captums(sign, outlier_perc):
    captum = pytest.importorskip("captum.attr", reason="needs the test extra's Captum").visualization
    _, ours = draw(sign=sign, outlier_perc=outlier_perc)
    _, theirs = captum.visualize_image_attr(ATTR, IMAGE, "heat_map", sign, None, outlier_perc, use_pyplot=False)
    assert np.allclose(ours.images[-1].get_array(), theirs.images[-1].get_array())


@pytest.mark.captum
@pytest.mark.parametrize("name", ["visualize_image_attr", "visualize_image_attr_multiple", "visualize_timeseries_attr"])
def test_options_are_captums_in_captums_order(name):
    captum = pytest.importorskip("captum.attr", reason="needs the test extra's Captum").visualization
    theirs = inspect.signature(getattr(captum, name)).parameters
    ours = inspect.signature(getattr(visualization, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for option, parameter in theirs.items():
        if not (parameter.default is parameter.empty or name.endswith("multiple") or option in {"method", "sign"}):
            assert ours[option].default == parameter.default, option


@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling"])
def test_map_without_attribution_draws_empty(method):
    _, axes = draw(np.zeros_like(ATTR), method=method, sign="positive", contours=3)
    assert not axes.collections
    drawn = np.asarray(axes.images[-1].get_array())
    if method == "original_image":
        assert (drawn == IMAGE).all()
    else:
        assert (drawn[..., 3] if method == "alpha_scaling" else drawn).max() == 0


def test_masked_and_alpha_refuse_sign_all_and_say_what_works():
    with pytest.raises(ValueError, match="'masked_image' cannot show sign 'all'; choose positive"):
        draw(method="masked_image")
    with pytest.raises(ValueError, match="method 'heatmap' is not one of heat_map"):
        draw(method="heatmap")
    with pytest.raises(ValueError, match="sign 'both' is not one of all, positive"):
        draw(sign="both")
    with pytest.raises(ValueError, match="needs original_image"):
        draw(image=None, method="blended_heat_map")


def test_no_pyplot_state_unless_asked():
    code = "import sys, numpy as np; from attribution import visualization as v; v.visualize_image_attr(np.ones((4, 4)), use_pyplot=False); print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_pyplot_shows_where_asked(monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    figure, _ = visualization.visualize_image_attr(ATTR)
    assert shown == [[figure.number]]
    plt.close(figure)


def test_failed_image_counts_as_nothing():
    assert scale_of(np.full((3, 3), np.nan)) == 0
    assert (normalise(np.full((3, 3), np.nan)) == 0).all()


def test_scale_holds_the_share_of_mass_that_is_asked_for():
    values = np.array([[1.0, 1, 1, 1, 1, 1, 1, 1, 1, 91]])
    assert scale_of(values, 0) == 91
    assert scale_of(values, 91) == 1
    with pytest.raises(ValueError, match="outlier_perc is 120"):
        scale_of(values, 120)


def test_shared_scale_makes_equal_colours_equal_attribution():
    weak, strong = np.full((4, 4), 1.0), np.full((4, 4), 2.0)
    scale = shared_scale([weak, strong])
    assert normalise(strong, scale=scale).max() == 1
    assert normalise(weak, scale=scale).max() == 0.5
    assert normalise(weak).max() == 1


def test_signed_maps_are_drawn_on_a_scale_that_shows_more_than_their_strongest_dots():
    dots = np.random.default_rng(0).normal(size=(64, 64)) ** 3
    assert full_colour(dots) == scale_of(dots, 10) < scale_of(dots)
    assert full_colour(np.abs(dots)) == scale_of(dots)
    assert full_colour(np.zeros((4, 4))) == 0


def test_overlay_is_stronger_colour_where_there_is_more_attribution():
    ramp = np.linspace(-1, 1, 101)[None].repeat(5, axis=0)
    drawn = overlay(np.full((5, 101, 3), 128, np.uint8), ramp, 1.0)[2].astype(int)
    redness, grey = drawn[:, 0] - drawn[:, 2], drawn[50]
    assert redness[20] < redness[40] < redness[50] == 0 < redness[60] < redness[80]
    assert grey.tolist() == [191] * 3  # 140 + 0.4 x 128


@pytest.mark.parametrize("size", [(24, 32), (7, 7), (5, 3), (1, 1)])
def test_enlarging_keeps_constants_range_and_place(size):
    small = np.zeros((7, 7))
    small[5, 1] = 1
    assert np.allclose(enlarge(np.full((7, 7), 3.0), size), 3)
    large = enlarge(small, size)
    assert large.shape == size
    assert large.min() >= 0
    assert large.max() <= 1
    assert np.allclose(enlarge(small, (7, 7)), small)
    if min(size) >= 7:
        y, x = np.unravel_index(large.argmax(), size)
        assert (y * 7 // size[0], x * 7 // size[1]) == (5, 1)


def test_enlarging_is_keys_cubic_convolution():
    """Against a loop from the definition: value at p is the sum of k(p - j) f(clamped j)."""

    def k(d, a=-0.5):
        d = abs(d)
        return (
            (a + 2) * d**3 - (a + 3) * d**2 + 1
            if d < 1
            else (a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0)
        )

    row = RNG.normal(size=5)
    naive = []
    for i in range(17):
        p = (i + 0.5) * 5 / 17 - 0.5
        naive.append(sum(k(p - j) * row[min(max(j, 0), 4)] for j in range(-4, 10)))
    assert np.allclose(enlarge(np.stack([row] * 5), (5, 17))[2], np.clip(naive, row.min(), row.max()))


def test_small_map_is_enlarged_over_its_image():
    _, axes = draw(RNG.random((7, 7)), method="blended_heat_map")
    assert axes.images[-1].get_array().shape == IMAGE.shape[:2]


def test_contours_draw_lines():
    _, axes = draw(contours=[-0.5, 0.5])
    assert len(axes.collections) == 1


def test_float_images_are_fractions_and_wild_ones_are_clipped():
    _, axes = draw(image=IMAGE / 255, method="original_image")
    assert np.abs(np.asarray(axes.images[0].get_array(), dtype=int) - IMAGE).max() <= 1
    _, axes = draw(image=IMAGE * 3.0, method="original_image")
    assert np.asarray(axes.images[0].get_array()).max() == 255
    normalised = (IMAGE / 255 - 0.45) / 0.225
    _, axes = draw(image=normalised, method="original_image")
    shown = np.asarray(axes.images[0].get_array(), dtype=int)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.abs(shown - (IMAGE - IMAGE.min()) / np.ptp(IMAGE) * 255).max() <= 1
    with pytest.raises(ValueError, match=r"\(5,\) has no picture"):
        draw(image=np.zeros(5), method="original_image")


def test_multiple_draws_each_style_and_checks_lengths():
    styles = ["original_image", "heat_map", "masked_image"]
    figure, axes = visualization.visualize_image_attr_multiple(
        ATTR, IMAGE, styles, ["all", "all", "positive"], styles, use_pyplot=False, show_colorbar=True
    )
    assert [each.get_title() for each in axes] == styles
    assert len(figure.axes) == 4  # three pictures, one colour bar: an image and a mask have no scale to explain
    with pytest.raises(ValueError, match="1 methods need as many signs"):
        visualization.visualize_image_attr_multiple(ATTR, IMAGE, ["heat_map"], [], use_pyplot=False)


@pytest.mark.parametrize("method", ["overlay_individual", "overlay_combined", "colored_graph"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_time_series(method, channels_last):
    data, attr = RNG.normal(size=(2, 30, 3))
    order = (lambda a: a) if channels_last else np.transpose
    figure, axes = visualization.visualize_timeseries_attr(
        order(attr),
        order(data),
        method=method,
        channels_last=channels_last,
        sign="all",
        show_colorbar=True,
        use_pyplot=False,
    )
    count = 1 if method == "overlay_combined" else 3
    assert np.atleast_1d(axes).size == count
    assert len(figure.axes) == count + 1
    first = np.atleast_1d(axes)[0]
    assert len(first.patches) == (0 if method == "colored_graph" else 30)


def test_panel_tells_prediction_and_completeness():
    figure = panel(IMAGE, [Map("ig", ATTR.transpose(2, 0, 1), "delta 0.003")], caption="predicted hen (97 %)")
    assert [a.get_title() for a in figure.axes] == ["original", "ig", "overlay"]
    assert [a.get_xlabel() for a in figure.axes] == ["predicted hen (97 %)", "delta 0.003", ""]


def test_panel_with_shared_scale_shows_weak_map_weaker():
    maps = [Map("strong", np.full((24, 32), 4.0)), Map("weak", np.full((24, 32), 1.0))]
    shared, own = (
        [np.asarray(figure.axes[c].images[0].get_array(), dtype=float).mean() for c in (1, 2)]
        for figure in (panel(IMAGE, maps, scale="shared"), panel(IMAGE, maps, scale="image"))
    )
    assert own[0] == own[1]
    assert shared[0] > 1.5 * shared[1]
    with pytest.raises(ValueError, match="scale 'own' is neither"):
        panel(IMAGE, maps, scale="own")


def test_overlay_of_nothing_is_the_grey_image_and_text_is_taken_literally():
    figure = panel(IMAGE, [Map("cost $x_1$ and $", np.zeros((7, 7)))], caption="<b>$\\frac$</b>")
    shown = np.asarray(figure.axes[2].images[0].get_array())
    assert (np.ptp(shown.astype(int), axis=2) == 0).all()
    assert pixels(figure).any()


@pytest.mark.parametrize("count", [1, 5, 12])
def test_contact_sheet_shows_every_image(count):
    entries = [
        Entry(image=IMAGE, maps=(Map("ig", ATTR.transpose(2, 0, 1)),), caption=f"image {n}") for n in range(count)
    ]
    figure = contact_sheet(entries, scale="shared")
    assert [a.get_xlabel() for a in figure.axes if a.get_xlabel()] == [f"image {n}" for n in range(count)]


def texts(figure):
    """Where each text of a figure lies, in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().strip())
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


@pytest.mark.parametrize("key", ["a.jpg", "n02107908/" + 8 * "Appenzeller_Sennenhund_" + ".JPEG"])
@pytest.mark.parametrize(
    "method", ["saliency", 'integrated_gradients(n_steps=200, at="layer4.1.conv2", baseline="reference(n=32)")']
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_word_of_a_sheet_is_cut_or_hides_another(key, method, count):
    maps = tuple(Map(method, ATTR.transpose(2, 0, 1), "sum -1234, completeness off by 0.0012") for _ in range(3))
    caption = f"{key}\npredicted Bernese mountain dog (69.8 %)\nis Greater Swiss Mountain dog"
    entries = [Entry(image=IMAGE, maps=maps[: 3 - (n == 3)], caption=caption) for n in range(count)]
    figures = [panel(IMAGE, maps[:1], caption=caption), panel(IMAGE, maps, caption=caption, title=method)]
    for figure in [contact_sheet(entries, title=key[:40]), *figures]:
        pixels(figure)
        boxes = texts(figure)
        for number, (words, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0, words
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, words
            assert not [other for other, each in boxes[:number] if each.overlaps(box)], words


def test_any_key_is_drawn_as_text_and_without_a_warning(tmp_path):
    hostile = "$x^2$ \x1b[31mred\tcat \u732b \u202e.jpg\r"
    figure = panel(IMAGE, [Map(hostile, ATTR.transpose(2, 0, 1))], caption=hostile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "hostile.png")
    assert all(character.isprintable() for words, _ in texts(figure) for character in words.replace("\n", ""))
    assert any("$x^2$ \\x1b[31m" in words for words, _ in texts(figure))
    figure = panel(IMAGE, [Map("a", ATTR.transpose(2, 0, 1))], caption="a cat (39.5\xa0%)")
    assert "a cat (39.5\xa0%)" in [words for words, _ in texts(figure)]


def test_contact_sheet_of_nothing_says_so():
    with pytest.raises(ValueError, match="no image to show"):
        contact_sheet([])


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        save(panel(IMAGE, [Map("ig", ATTR.transpose(2, 0, 1))]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 300
