# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
A WordPiece tokenizer of a corpus' own words.

Models that start from random weights learn a few thousand words in minutes; of the thirty thousand of a tokenizer for
all of English, most come never, and the map to them is most of a step's time.
"""

from collections.abc import Iterable
from pathlib import Path

WORDS = 4096


def write_tokenizer(texts: Iterable[str], folder: Path, words: int = WORDS) -> None:
    """Train it, and write it as a folder that `transformers.AutoTokenizer` loads."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertTokenizerFast

    names = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = Tokenizer(models.WordPiece(unk_token=names["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=words, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(names[name], tokenizer.token_to_id(names[name])) for name in ("cls", "sep")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokens = {f"{name}_token": token for name, token in names.items()}
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **tokens).save_pretrained(folder)
