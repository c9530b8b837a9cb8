# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Students that read images: two towers in one space, and fusion models that score a text with an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import encoder_module
from retort.students.create.layers import cut_layers
from retort.students.create.towers import modules_of, tower
from retort.students.files import resolve_model
from retort.students.loading import (
    PLACE,
    assemble,
    load_model,
    load_tokenizer,
    open_model,
    place_for_transformers,
    refuse_remote_code,
)
from retort.students.makers import student_maker
from retort.students.seeding import seeded
from retort.students.towers import longest_text, reads_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import CrossEncoder, SentenceTransformer

_IMAGE_KEYS = ("model", "config", "pooling", "frozen", *PLACE)
_CAPTION = 40  # tokens


@student_maker
def image_text(
    text: dict[str, Any],
    image: dict[str, Any],
    *,
    seed: int = 0,
    corpus: Sequence[Any] | None = None,  # noqa: ARG001 - texts of towers; images say nothing of words
    **options: Any,
) -> SentenceTransformer:
    """
    Start from an encoder of texts and one of images, whose vectors lie in one space.

    All modules are sentence-transformers' own, so that the folder loads there. A CLIP-like model has both already:
    start from it with `pretrained`.

    :param text:
        `{type, init_parameters}` of the text encoder, as in `two_towers`; with `frozen: true` it does not learn.
    :param image:
        `model`: a vision model of Hugging Face, such as a ViT, with its `revision`, `token`, `local_files_only` and
        `cache_folder`; or `config`: a transformers configuration with its
        `model_type`, `image_size` and `patch_size`, for random weights. `pooling` of its patches is `mean` by default;
        with `frozen: true` it does not learn, and only the map behind it does.
    :param seed:
        Seed of new weights: the map to the text encoder's dimension, and those of `config`.
    :param corpus:
        Not used.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If `image` has other keys, or both or neither of `model` and `config`; or the text encoder reads images.

    ### Usage example

    ```yaml
    student:
      type: retort.students.create.image_text
      init_parameters:
        text: {type: retort.students.create.pretrained, init_parameters: {model: ...}, frozen: true}
        image:
          config: {model_type: vit, hidden_size: 96, num_hidden_layers: 4, num_attention_heads: 4, image_size: 32,
                   patch_size: 4}
    ```
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Router
    from sentence_transformers.sentence_transformer.modules import Pooling

    words = tower("image_text", "text", text, None)
    if "image" in words.modalities:
        msg = "image_text: text: this model reads images already; start from it alone with retort.students.create."
        raise ValueError(msg + "pretrained.")
    if odd := sorted(image.keys() - set(_IMAGE_KEYS)):
        msg = f"image_text: image.{odd[0]}: unknown; there are {', '.join(_IMAGE_KEYS)}."
        raise ValueError(msg)
    if ("model" in image) is ("config" in image):
        msg = "image_text: image: name either a model, or a config for random weights."
        raise ValueError(msg)
    place = {name: image[name] for name in PLACE if name in image}
    if place and "config" in image:
        msg = f"image_text: image.{next(iter(place))}: it is of a model, not of a config."
        raise ValueError(msg)
    dim = int(words.get_embedding_dimension() or 0)
    with seeded(seed):
        first = _pretrained_vision(image["model"], place) if "model" in image else _new_vision(image["config"])
        width = first.get_embedding_dimension()
        last = Dense(width, dim, activation_function=None)
    first.requires_grad_(not image.get("frozen", False))
    pool = Pooling(width, pooling_mode=image.get("pooling", "mean"))
    router = Router(
        {"text": modules_of(words), "image": [first, pool, last, Normalize()]},
        route_mappings={(None, "text"): "text", (None, "image"): "image"},
    )
    options = {"prompts": dict(words.prompts), "similarity_fn_name": "cosine"} | options
    return assemble(SentenceTransformer, [router], **options)


def _pretrained_vision(model: str, place: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    first = open_model(SentenceTransformer, resolve_model(model), device="cpu", **place).float()[0]
    if not isinstance(first, Transformer) or "image" not in first.modalities or "text" in first.modalities:
        msg = f"image_text: image.model: {model} is no encoder of images alone, such as a ViT."
        raise ValueError(msg)
    return first


def _new_vision(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        msg = "image_text: image.config: name its model_type, for example {model_type: vit, image_size: 32, ...}."
        raise ValueError(msg)
    full = AutoConfig.for_model(**config)
    if not isinstance(getattr(full, "image_size", None), int):
        msg = f"image_text: image.config: {config['model_type']} reads no images of one size; take vit, for example."
        raise ValueError(msg)
    return encoder_module(AutoModel.from_config(full), _square_images(full.image_size))


def _square_images(size: int) -> Any:
    """Bring images to one size, and their values to -1 to 1."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": size, "width": size})


@student_maker
def fusion_ranker(
    model: str | None = None,
    *,
    towers: str | None = None,
    config: dict[str, Any] | None = None,
    layers: list[int] | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | None = None,
) -> CrossEncoder:
    """
    Start a ranker of texts with images: a fusion model, which reads both at once.

    It ranks best and slowest: a pass for each pair. It is what image-text students are distilled from.

    :param model:
        A published fusion model, as a folder or a Hub id: `ViltForImageAndTextRetrieval`, or a ViLT without this head,
        which gets a new one.
    :param towers:
        In its place: an image-text student, over whose frozen towers new layers learn.
    :param config:
        Of `towers`: configuration of the new layers, of an encoder of transformers with its `model_type`.
    :param layers:
        Of `model`: indexes of the layers to keep, from 0, in ascending order; by default all.
    :param max_tokens:
        Of `model`: where texts are cut, special tokens included; by default 40. Towers have their own length.
    :param seed:
        Seed of new weights.
    :param revision:
        Revision of `model`, or of `towers`, on the Hub; the next three are of it as well.
    :param token:
        Token for the Hub.
    :param local_files_only:
        Take what was downloaded before.
    :param cache_folder:
        Where downloads lie.
    :raises ValueError:
        If both or neither of `model` and `towers` are named, or what is only for the other; or the towers read no
        images.

    ### Usage example

    ```yaml
    student:
      type: retort.students.create.fusion_ranker
      init_parameters:
        towers: runs/images/student
        config: {model_type: bert, hidden_size: 192, num_hidden_layers: 3, num_attention_heads: 6,
                 intermediate_size: 384}
    ```
    """
    from sentence_transformers import CrossEncoder

    published = {"model": model, "layers": layers, "max_tokens": max_tokens}
    _refuse_other_way(published, {"towers": towers, "config": config})
    place: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "local_files_only": local_files_only,
        "cache_folder": cache_folder,
    }
    with seeded(seed):
        if towers is not None:
            return assemble(CrossEncoder, [_over_towers(towers, config or {}, place)])
        return assemble(CrossEncoder, [_published(str(model), layers, max_tokens or _CAPTION, place)])


def _refuse_other_way(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Refuse parameters of two ways to make a ranker, of which the first names the way."""
    ways = [[name for name, value in way.items() if value is not None] for way in (first, second)]
    named = [next(iter(way)) for way in (first, second)]
    if (first[named[0]] is None) is (second[named[1]] is None):
        msg = f"fusion_ranker: name either {named[0]} or {named[1]}."
        raise ValueError(msg)
    chosen = first[named[0]] is None
    if odd := ways[1 - chosen]:
        msg = f"fusion_ranker: {odd[0]}: it is of {named[1 - chosen]}, not of {named[chosen]}."
        raise ValueError(msg)


def _published(model: str, layers: list[int] | None, max_tokens: int, place: dict[str, Any]) -> Any:
    from transformers import AutoImageProcessor, ViltForImageAndTextRetrieval

    from retort.students.modules.fusion import FEWEST_TOKENS, FusionScorer

    path = resolve_model(model)
    refuse_remote_code(path)
    loading = place_for_transformers(place)
    encoder = ViltForImageAndTextRetrieval.from_pretrained(path, use_safetensors=True, **loading).float()
    if layers is not None:
        cut_layers(encoder, layers, model)
    limit = longest_text(encoder)
    if not FEWEST_TOKENS <= max_tokens <= limit:
        msg = f"max_tokens={max_tokens}: must lie between {FEWEST_TOKENS} and the model's {limit} positions."
        raise ValueError(msg)
    images = AutoImageProcessor.from_pretrained(path, **loading)
    return FusionScorer(encoder, load_tokenizer(model, **place), images, max_tokens)


def _over_towers(towers: str, config: dict[str, Any], place: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer

    from retort.students.modules.fusion import TowerFusion

    if "model_type" not in config:
        msg = "fusion_ranker: config: name its model_type, for example {model_type: bert, hidden_size: 192, ...}."
        raise ValueError(msg)
    loaded = load_model(SentenceTransformer, towers, device="cpu", **place).float()
    if not reads_images(loaded):
        msg = f"fusion_ranker: towers: {towers} reads text alone; name a student that reads images."
        raise ValueError(msg)
    return TowerFusion(loaded, config)
