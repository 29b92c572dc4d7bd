"""An expression has one canonical spelling, which reads back as the same question; mistakes name the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution.errors import AttributionError, ExpressionError
from attribution.method import METHODS, SHORT_NAMES
from attribution.question import Neuron, parse


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("ig", "integrated_gradients"),
        ("ig(n_steps=50)", "integrated_gradients"),
        ("ig( n_steps = 20 )", "integrated_gradients(n_steps=20)"),
        ("gradshap(baseline='zero', n_samples=9)", 'gradient_shap(n_samples=9, baseline="zero")'),
        ("gradshap(baseline='black, zero')", "gradient_shap"),
        ("gradcam(at='layer4')", 'grad_cam(at="layer4")'),
        ("saliency(target=3)", 'saliency(target="3")'),
        ("saliency(of='layer4.1:12,3,3')", 'saliency(of="layer4.1:12,3,3")'),
        ("ig(baseline='blur(10)')", 'integrated_gradients(baseline="blur")'),
        ("ig(baseline=0.5)", 'integrated_gradients(baseline="0.5")'),
        ("neuron_conductance(of='a:1', target='label')", 'neuron_conductance(of="a:1", target="label")'),
        ("gradshap(stdev='0.15r')", 'gradient_shap(stdev="0.15r")'),
        ("saliency(noise='smoothgrad')", 'saliency(noise="smoothgrad")'),
        (
            "ixg(noise=\"vargrad(stdev='0.15r', samples=9)\")",
            'input_x_gradient(noise="vargrad(samples=9, stdev=\\"0.15r\\")")',
        ),
        ("occlusion(window=(3, 15, 15), stride=(3,8,8))", "occlusion(window=(3, 15, 15), stride=(3, 8, 8))"),
    ],
)
def test_canonical(written, canonical):
    assert str(parse(written)) == canonical
    assert parse(canonical) == parse(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("integrated_gradient", "method 'integrated_gradient' not found; nearest: integrated_gradients"),
        ("ig(steps=5)", "integrated_gradients has no parameter 'steps'; nearest: n_steps"),
        ("ig(n_steps='many')", r"n_steps='many'.*a whole number like 50"),
        ("ig(n_steps=5.5)", r"n_steps=5.5.*a whole number like 50"),
        ("saliency(abs=1)", r"abs=1.*True or False like True"),
        ("occlusion(window=(3, 'a'))", r"window=\(3, 'a'\).*a whole number or a tuple like 32"),
        ("gradshap(stdev='0.1')", r"stdev '0.1' not understood; .* like '0.15r'"),
        ("ig(5)", "does not parse; write it like"),
        ("ig(n_steps=__import__('os'))", "is not a literal"),
        ("ig(", "does not parse"),
        ("ig(target='best')", "target 'best' not understood; use predicted, label"),
        ("ig(baseline='grey')", "baseline 'grey' not found"),
        ("ig(baseline='black,zero')", "integrated_gradients takes one baseline"),
        ("saliency(baseline='black')", "saliency compares with nothing"),
        ("saliency(of='layer4')", "write layer:index"),
        ("saliency(noise='smooth')", "noise 'smooth' not found; nearest: smoothgrad"),
        ("saliency(noise='smoothgrad(stdev=\"a lot\")')", "stdev 'a lot' not understood"),
        ("saliency(noise='smoothgrad(n=3)')", "smoothgrad has no parameter 'n'"),
        ("grad_cam(of='layer4:1,1,1')", "grad_cam is not defined at a neuron; it is at: layer"),
        ("neuron_conductance", "neuron_conductance is not defined at the input; it is at: neuron"),
        ("occlusion(at='layer4')", "occlusion is not defined at a layer; it is at: input, neuron"),
    ],
)
def test_mistakes(written, message):
    with pytest.raises(AttributionError, match=message):
        parse(written)


def test_short_names_lead_to_methods():
    assert set(SHORT_NAMES.values()) <= set(METHODS)
    assert not set(SHORT_NAMES) & set(METHODS)


def test_the_command_line_s_words_fill_only_what_is_open():
    question = parse("ig(target='label')", at="layer4", target="3", baseline="black", noise=None)
    assert str(question) == 'integrated_gradients(at="layer4", target="label", baseline="black")'
    assert str(parse("saliency", baseline="black", target="3")) == 'saliency(target="3")'


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        question = parse(text)
    except ExpressionError:
        return
    assert parse(str(question)) == question


@given(st.from_regex(r"[a-z][a-z0-9_.]{0,12}", fullmatch=True), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_neurons_round_trip(layer, index):
    neuron = Neuron(layer, tuple(index))
    assert Neuron.parse(str(neuron)) == neuron
