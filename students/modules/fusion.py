# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Fusion models of text and image as rankers: ViLT (Kim et al. 2021, arXiv 2102.03334), and layers over two towers.

`create.fusion_ranker` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules.input_module import InputModule
from torch import Tensor, nn
from torch.nn import functional as F

from retort.students.encoding import model_inputs
from retort.students.images import ImageFile, open_image
from retort.students.modules.heads import top_layers
from retort.students.towers import max_tokens, route, set_max_tokens

FEWEST_TOKENS = 3  # two special ones and a word
COSINE_SCALE = 20.0
TOWERS = "towers"


def sorted_pairs(pairs: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """
    Sort pairs of a text and an image, in either order, into texts and images.

    :raises ValueError:
        If a pair holds no image, or two.
    """
    texts, images = [], []
    for pair in pairs:
        seen = [isinstance(item, ImageFile) or not isinstance(item, str) for item in pair]
        if sum(seen) != 1:
            msg = f"this ranker scores a text with an image; it got {sum(seen)} images in a pair."
            raise ValueError(msg)
        images.append(pair[seen.index(True)])
        texts.append(pair[seen.index(False)])
    return texts, images


class FusionScorer(InputModule):
    """
    One transformer over the tokens of a text and the patches of an image; its head scores the pair.

    It reads pairs of a text and an image in either order. An image is an `ImageFile`, or one that Pillow opened.
    Images of one size have no mask, and their patches keep their order, so that scores are the same each time; the
    processor of a published ViLT pads images of several sizes, and the model then draws their patches' order.

    :param model:
        `ViltForImageAndTextRetrieval`.
    :param tokenizer:
        What cuts texts.
    :param image_processor:
        What gives `pixel_values` of images.
    :param max_seq_length:
        Where texts are cut, special tokens included.
    """

    config_keys = ["max_seq_length"]  # noqa: RUF012 - sentence-transformers' own
    config_file_name = "fusion_config.json"  # read for what it would run, as every configuration is
    save_in_root = False

    tokenizer: Any

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, max_seq_length: int) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.max_seq_length = max_seq_length

    @property
    def modalities(self) -> list[Any]:
        """Both; it reads pairs of them."""
        return ["text", "image"]

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """
        Give what the model reads of pairs.

        :param inputs:
            `n` pairs of a text and an image.
        :param prompt:
            Put before each text.
        :raises ValueError:
            If a pair holds no image, or two.
        """
        texts, files = sorted_pairs(inputs)
        images = [open_image(image) if isinstance(image, ImageFile) else image.convert("RGB") for image in files]
        words = self.tokenizer(
            [f"{prompt or ''}{text}" for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_tensors="pt",
            verbose=False,
        )
        return {**words, **self.image_processor(images, return_tensors="pt")}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `scores`, `[b, 1]`."""
        pixels, mask = features["pixel_values"], features.get("pixel_mask")
        if mask is None:
            patches = self._patches(pixels.to(self.model.dtype))
            seen = {"image_embeds": patches, "pixel_mask": pixels.new_ones(patches.shape[:2], dtype=torch.int64)}
        else:
            seen = {"pixel_values": pixels.to(self.model.dtype), "pixel_mask": mask}
        words = {n: features[n] for n in ("input_ids", "attention_mask", "token_type_ids") if n in features}
        return features | {"scores": self.model(**words, **seen).logits}

    def _patches(self, pixels: Tensor) -> Tensor:
        """`[b, 1 + p, h]` states of images of the configured size, with their positions; the first is the image's."""
        embeddings = self.model.vilt.embeddings
        patches = embeddings.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        first = embeddings.cls_token.expand(len(patches), -1, -1)
        states: Tensor = embeddings.dropout(torch.cat([first, patches], dim=1) + embeddings.position_embeddings)
        return states

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Save model, tokenizer, image processor and length."""
        self.model.save_pretrained(output_path, safe_serialization=safe_serialization)
        self.tokenizer.save_pretrained(output_path)
        self.image_processor.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        """Load what `save` wrote; of `kwargs` those that say where it lies, and arguments for the model's weights."""
        from transformers import AutoImageProcessor, AutoTokenizer, ViltForImageAndTextRetrieval

        names = ("token", "cache_folder", "revision", "local_files_only")
        place: dict[str, Any] = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **place)
        if "cache_folder" in place:
            place["cache_dir"] = place.pop("cache_folder")
        place["subfolder"] = subfolder
        weights = {n: v for n, v in (kwargs.get("model_kwargs") or {}).items() if n in ("dtype", "attn_implementation")}
        return cls(
            ViltForImageAndTextRetrieval.from_pretrained(
                model_name_or_path, use_safetensors=True, **{"dtype": "auto"} | weights, **place
            ),
            AutoTokenizer.from_pretrained(model_name_or_path, **place),
            AutoImageProcessor.from_pretrained(model_name_or_path, **place),
            **config,
        )


class TowerFusion(InputModule):
    r"""
    Layers over the frozen towers of an image-text student, which look at its tokens and patches together (METER's way).

    $$s(q, d) = a \cos(q, d) + h\big(\mathrm{layers}([c;\, W_q\, q_{1..n};\, W_d\, d_{1..p}])\big)$$

    with $q_{1..n}$ the text tower's states of tokens, $d_{1..p}$ the image tower's of patches, $c$ a learned first
    state, $h$ a linear map of what the layers make of it, and $a$ learned. At first $h$ is 0: the ranker scores as
    the towers do. A text or an image that comes in several pairs of a forward pass passes its tower once.

    :param towers:
        A student that reads images.
    :param trunk:
        Configuration of the layers: of an encoder of transformers, with its `model_type`.
    """

    config_keys = ["trunk"]  # noqa: RUF012 - sentence-transformers' own
    config_file_name = "fusion_config.json"  # read for what it would run, as every configuration is
    save_in_root = False

    def __init__(self, towers: Any, trunk: dict[str, Any]) -> None:
        from transformers import AutoModel

        super().__init__()
        self.towers, self.trunk = towers.requires_grad_(False).eval(), trunk
        self.model = top_layers(trunk, AutoModel)
        self.model.pooler = None
        text, image = (route(towers, side)[0] for side in ("query", "document"))
        width = int(self.model.config.hidden_size)
        self.text_map = nn.Linear(text.get_embedding_dimension(), width)
        self.image_map = nn.Linear(image.get_embedding_dimension(), width)
        self.first = nn.Parameter(torch.zeros(width))
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))

    @property
    def modalities(self) -> list[Any]:
        """Both; it reads pairs of them."""
        return ["text", "image"]

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The text tower's."""
        return route(self.towers, "query")[0].tokenizer

    @property
    def config(self) -> Any:
        """The image tower's configuration, by which pairs are counted."""
        return route(self.towers, "document")[0].config

    @property
    def max_seq_length(self) -> int | None:
        """Where the text tower cuts texts."""
        return max_tokens(self.towers, "query")

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        set_max_tokens(self.towers, query=tokens)

    def train(self, mode: bool = True) -> TowerFusion:
        """Set the mode of the layers; the towers do not learn."""
        super().train(mode)
        self.towers.eval()
        return self

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Give what the towers read of pairs, each text and image once; parameters as in `FusionScorer.preprocess`."""
        texts, images = sorted_pairs(inputs)
        features: dict[str, Any] = {}
        for name, side, items in (("text", "query", texts), ("image", "document", images)):
            keys = [item if isinstance(item, str) else id(item) for item in items]
            unique = dict(zip(keys, items, strict=True))
            rows = {key: row for row, key in enumerate(unique)}
            features[f"{name}_rows"] = torch.tensor([rows[key] for key in keys])
            own = model_inputs(self.towers, list(unique.values()), side, prompt)  # type: ignore[arg-type]
            features |= {f"{name}.{key}": value for key, value in own.items()}
        return features

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `scores`, `[b, 1]`."""
        queries, words, word_mask = self._states(features, "text", "query")
        documents, patches, patch_mask = self._states(features, "image", "document")
        q, d = features["text_rows"], features["image_rows"]
        states = torch.cat(
            [
                self.first.expand(len(q), 1, -1),
                (self.text_map(words) + self.kinds.weight[0])[q],
                (self.image_map(patches) + self.kinds.weight[1])[d],
            ],
            dim=1,
        )
        mask = torch.cat([word_mask.new_ones(len(q), 1), word_mask[q], patch_mask[d]], dim=1)
        seen = self.model(inputs_embeds=self.norm(states), attention_mask=mask).last_hidden_state[:, 0]
        near = (F.normalize(queries, dim=-1)[q] * F.normalize(documents, dim=-1)[d]).sum(-1, keepdim=True)
        return features | {"scores": self.scale * near + self.head(seen)}

    def _states(self, features: dict[str, Any], name: str, side: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors `[u, d]` of one side's items, states `[u, t, h]` of their tokens or patches, and which are there."""
        own = {key.removeprefix(f"{name}."): value for key, value in features.items() if key.startswith(f"{name}.")}
        with torch.no_grad():
            out = self.towers(own, task=side)
        vectors = out["sentence_embedding"]
        states = out.get("token_embeddings", vectors[:, None])  # CLIP gives no states
        mask = out.get("attention_mask")
        if mask is None or mask.shape[1] != states.shape[1]:
            mask = states.new_ones(states.shape[:2], dtype=torch.int64)
        return vectors, states, mask

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Save the towers as a model of their own, and what was learned over them."""
        from safetensors.torch import save_file

        self.towers.save(str(Path(output_path, TOWERS)), create_model_card=False, safe_serialization=safe_serialization)
        own = {n: t.contiguous() for n, t in self.state_dict().items() if not n.startswith("towers.")}
        save_file(own, str(Path(output_path, "model.safetensors")))
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        """Load what `save` wrote; of `kwargs` those that say where it lies."""
        from sentence_transformers import SentenceTransformer

        from retort.students.loading import open_model

        names = ("token", "cache_folder", "revision", "local_files_only")
        place: dict[str, Any] = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **place)
        folder = cls.load_dir_path(model_name_or_path, subfolder=str(Path(subfolder, TOWERS)), **place)
        towers = open_model(SentenceTransformer, str(folder), device="cpu")
        weights = cls.load_torch_weights(model_name_or_path, subfolder=subfolder, **place)
        loaded = cls(towers, **config)
        for stored in weights.values():
            loaded.to(stored.dtype)
        loaded.load_state_dict(weights | {f"towers.{n}": t for n, t in towers.state_dict().items()})
        return loaded
