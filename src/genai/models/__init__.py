"""The models that can be named, and their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genai.registry import Component
from genai.schema import Count, Fraction, ModelConfig, Natural, NonNegative, Positive, Range

MOST_CODES = 1 << 20

COMPONENTS: dict[str, Component] = {
    "gan": Component(
        "genai.models.gan:Gan", "generator against discriminator: sharp, drawn in one pass", "genai.models:GanConfig"
    ),
    "vae": Component(
        "genai.models.vae:Vae", "encoder and decoder: a smooth latent space, a bound on p(x)", "genai.models:VaeConfig"
    ),
    "diffusion": Component(
        "genai.models.diffusion:Diffusion",
        "removes noise step by step: the best samples, by class or prompt, edits, likelihood",
        "genai.models:DiffusionConfig",
    ),
    "transformer": Component(
        "genai.models.transformer:Transformer",
        "the next id after all before it: text, and codes of pictures and sounds",
        "genai.models:TransformerConfig",
    ),
    "copula": Component(
        "genai.models.copula:Copula",
        "how the columns of a table go together, by ranks: the baseline of tables, after one look at the data",
        "genai.models:CopulaConfig",
    ),
    "discriminative": Component(
        "genai.models.discriminative:Discriminative",
        "the class or the number that goes with an input, what users may like: networks, linear and kernel machines",
        "genai.models:DiscriminativeConfig",
    ),
}


@dataclass(frozen=True, kw_only=True)
class GanConfig(ModelConfig):
    loss: Literal["non_saturating", "relativistic", "hinge", "wgan_gp", "lsgan"] = "non_saturating"
    latent_dim: Count = 64
    conditional: bool = True  # on the label, where the data has one
    condition: Literal["projection", "embedding"] = "projection"  # how the discriminator gets the label
    penalty: Literal["auto", "none", "r1", "r1_r2", "gp"] = "auto"  # auto: what goes with the loss
    penalty_form: Literal["exact", "finite_difference"] = "exact"
    penalty_every: Count = 8  # steps
    gamma: Positive | Literal["auto"] = "auto"  # gamma / 2 * |grad|^2; auto: by the number of values of x
    gamma_final: Positive | None = None  # null: gamma stays
    spectral_norm: bool | Literal["auto"] = "auto"  # of the discriminator's weights; auto: with hinge
    augment: Literal["auto"] | tuple[Literal["color", "translation", "cutout"], ...] = "auto"  # auto: few pictures
    augment_p: Fraction = 1.0  # probability of each
    pack: Count = 1  # samples that the discriminator judges together
    schedule_samples: Natural = 0  # over which gamma falls to gamma_final and augment_p rises from 0; 0: at once
    generator_every: Count = 1  # discriminator steps per generator step


@dataclass(frozen=True, kw_only=True)
class VaeConfig(ModelConfig):
    likelihood: Literal["gaussian", "laplace", "bernoulli", "logistic", "logistic_mixture", "columns"] = "gaussian"
    sigma: Positive | Literal["optimal", "learned"] = "optimal"  # of the gaussian
    binarise: Literal["dynamic", "fixed"] = "dynamic"  # for bernoulli
    latents: Literal["gaussian", "fsq", "vq"] = "gaussian"
    downsample: Literal[1, 2, 4, 8, 16, 32, 64, 128, "auto"] | None = (
        None  # values a side that a position of a map stands for; null: a vector
    )
    latent_dim: Count = 32  # of gaussian latents: of the vector, or of each position
    levels: tuple[Annotated[int, Range(low=3, high=1000)], ...] = (8, 6, 5)  # of fsq
    codes: Annotated[int, Range(low=2, high=MOST_CODES)] = 512  # of vq
    code_dim: Count = 8  # numbers of each code of vq
    commitment: NonNegative = 0.25  # of the encoder to the codes of vq
    beta: NonNegative = 1.0  # weight of the rate; 1: a bound on log p(x)
    kl_warmup_samples: Natural = 0  # over which that weight rises from 0
    adversarial: NonNegative = 0.0  # length of a discriminator's gradient over that of the distortion; 0: none
    adversarial_warmup_samples: Natural = (
        0  # over which that rises from 0; the discriminator learns from the first step
    )
    spectral: NonNegative = 0.0  # of sounds: weight of the distance of their spectra beside the likelihood
    free_nats: NonNegative = 0.0  # of each latent and sample, below which its rate costs nothing
    prior: Literal["mixture", "normal", "none"] = "mixture"  # what samples are drawn from
    prior_parts: Count = 100  # Gaussians of the mixture, of all classes together


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(ModelConfig):
    objective: Literal["edm", "flow", "v", "eps", "x0", "jit"] = "edm"  # what the network predicts
    noise: Literal["auto", "normal", "uniform_t", "cosine", "ddpm", "log_uniform"] = "auto"  # law of ln(sigma)
    noise_mean: float | None = None  # of ln(sigma); null: the objective's
    noise_std: Positive | None = None
    weighting: Literal["auto", "edm", "min_snr", "soft_min_snr", "learned"] = "auto"  # auto: the objective's
    conditions: tuple[Literal["label", "prompt"], ...] = ("label", "prompt")  # of those that the data have
    condition_dropout: Fraction = 0.1  # samples that it is told nothing of
    mirror: bool = False  # of pictures, half of them in training
    completion: Fraction = 0.5  # of the rows of a table in training, a part of which is known
    consistency: bool = False  # learns to jump to the data at once, from a run that denoises
    consistency_gap: Annotated[float, Range(low=0, high=0.1, above=True)] = 1 / 256  # of neighbouring levels, relative
    text_width: Annotated[int, Range(low=32)] = 128  # of the encoder of prompts
    text_layers: Count = 2


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    conditions: tuple[Literal["label"], ...] = ("label",)  # of those that codes have
    condition_dropout: Fraction = 0.1  # samples that it is told nothing of


@dataclass(frozen=True, kw_only=True)
class CopulaConfig(ModelConfig):
    pass


@dataclass(frozen=True, kw_only=True)
class DiscriminativeConfig(ModelConfig):
    kind: Literal["network", "logistic", "linear_svm", "ridge", "svr", "kernel_svm"] = "network"
    loss: Literal["mse", "huber", "quantile", "softmax", "bpr"] = (
        "mse"  # of a network that predicts a number, of ratings
    )
    quantiles: tuple[Annotated[float, Range(low=0, high=1, above=True)], ...] = (0.1, 0.5, 0.9)  # of that loss
    dropout: Fraction = 0.0  # of a network's features
    mel_bands: Natural = 40  # of sounds, whose loudness in bands of pitch a network looks at; 0: their values
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes count as much as others
    calibrate: bool = False  # probabilities by the temperature that makes held-out labels likeliest
    mixup: NonNegative = 0.0  # of networks: alpha of what lies between two samples; 0: none
    augment: tuple[Literal["mirror", "translation", "cutout", "color"], ...] = ()  # of pictures that a network learns
    mirror_answers: bool = False  # of pictures: what a network says of each and of its mirror image, averaged
    C: Positive = 1.0  # of machines: weight of their losses over that of |W|^2 / 2
    hinge: Literal["squared", "plain"] = "squared"  # of support vector machines: what a margin is missed by
    epsilon: NonNegative = 0.1  # of those that predict a number: how far off costs nothing, in its own unit
    standardise: bool = True  # of machines: inputs get a mean of 0 and a deviation of 1
    features: Literal["auto", "exact", "nystroem", "random"] = "auto"  # of a kernel; auto: exact up to 5,000 rows
    num_features: Count | Literal["auto"] = "auto"  # of the other two; auto: of as many rows all, else 1,000
    gamma: Positive | Literal["scale"] = "scale"  # of exp(-gamma d^2); scale: 1 / (values * their variance)
    factors: Count = 64  # of ratings: numbers that an item becomes
    penalty: NonNegative | Literal["auto"] = "auto"  # of what one item says of another; auto: the loss's
    left_out: Annotated[float, Range(low=0, high=0.95)] | Literal["auto"] = "auto"  # share of what was had, on average
    equalise: Fraction = 0.5  # a user weighs (items had)^-equalise
    item_features: bool = True  # what data.items tells of items is learned, too
    # Of texts that machines learn: n-grams of words and parts of them, or of characters.
    ngrams: Literal["words", "characters"] = "words"
    characters: Count = 5  # of an n-gram, at most
    weighting: Literal["tfidf", "counts"] = (
        "tfidf"  # of n-grams: by how rare they are; 1 + ln of how often they are met
    )
    most_ngrams: Annotated[int, Range(low=1, high=1 << 26)] = 1 << 18  # that are learned, those that most texts hold
