# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where sentences, words and passages of a text begin and end, in any script: `sentencex` and ICU's dictionaries."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from unicodedata import category, normalize

# A sentence ends at a blank line and before a list item, whatever stands there.
_ITEM = re.compile(r"\s*(?:[-*\u2022]|\d+[.)]|:param|:return|>>>)\s")
_BLOCK = re.compile(rf"\n\s*\n|\n(?={_ITEM.pattern})")
_BLANK_LINE = re.compile(r"\n\s*\n")
_SCRIPTS = {"el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"), "ru": re.compile(r"[\u0400-\u052f]")}
_LONGEST_BLOCK = 4000  # characters; sentencex takes quadratic time over some
_FEWEST_WORDS = 3
_HEADING_WORDS = 10  # of a heading or a footer, at most
_NOTICE = re.compile(r"\s*(?:\u00a9|\(c\)|copyright\b)", re.IGNORECASE)
_CLOSING = {"Pe", "Pf", "Pi"}  # brackets and quotation marks, by Unicode's categories
_NO_END = (
    ",:;/%&#@\\?\uff1f\u061f\u037e\uff0c\u3001\u060c\uff1a\uff1b"  # other punctuation; a heading may be a question
)
# Scripts whose words stand without spaces: Thai, Lao, Myanmar, Khmer, Tai, kana, Han.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u1aad\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Scripts whose words `\w+` cuts into pieces, or does not cut: from Hebrew on, with their marks; less punctuation.
_BEYOND_REGEX = re.compile(
    r"[\u0590-\u1dff\u2e80-\u2fff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\ufe70-\ufefe\uff66-\uffdc"
    r"\U00020000-\U0003ffff]"
)
_WORD = re.compile(r"\w+")
PASSAGE_WORDS = 150  # of a passage that a file is cut into, at most
_LONGEST_WORD = 40  # characters; of what is longer, each so many count as a word


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """
    Find the sentences of a text.

    :param text:
        The text.
    :returns:
        Character offsets `(start, end)` in order, without surrounding white space. A piece of fewer than three words
        joins the one before, but not across a blank line.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _sentence_pieces(text):
        piece = text[start:end]
        left, right = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if left < right:
            if spans and _is_short(piece) and not _BLANK_LINE.search(text, spans[-1][1], left):
                spans[-1] = (spans[-1][0], right)
            else:
                spans.append((left, right))
    return spans


def answer_spans(text: str) -> list[tuple[int, int]]:
    """
    Find the sentences of a text that can answer a question: all but headings, page numbers and footers.

    :param text:
        The text.
    :returns:
        As `sentence_spans`, without what stands alone between blank lines and is no item of a list, if it has at most
        ten words and does not end as a sentence (a question does not), or begins as a heading in Markdown or a notice
        of copyright. All of them if that leaves none.
    """
    blocks: list[list[tuple[int, int]]] = []
    for start, end in sentence_spans(text):
        if not blocks or _BLANK_LINE.search(text, blocks[-1][-1][1], start):
            blocks.append([])
        blocks[-1].append((start, end))
    read = [block for block in blocks if not _is_heading(text[block[0][0] : block[-1][1]], alone=len(block) == 1)]
    return [span for block in read or blocks for span in block]


def words_of(text: str) -> list[str]:
    r"""
    List the words of a text, without punctuation.

    :param text:
        The text.
    :returns:
        What `\w+` matches in NFC; for scripts that it does not serve, such as Devanagari and Han, words by ICU.
    """
    text = normalize("NFC", text)  # of an accent that stands alone, `\w` knows nothing
    if not needs_dictionary(text):
        return _WORD.findall(text)
    words = []
    for word in (text[start:end] for start, end in _icu_words(text)):
        if not needs_dictionary(word):  # the same words as in a text without other scripts
            words += _WORD.findall(word)
        elif _WORD.search(word):
            words.append(word)
    return words


def needs_dictionary(text: str) -> bool:
    r"""Tell whether a text has words that `\w+` does not find, or only in pieces."""
    return _BEYOND_REGEX.search(text) is not None


def token_spans(text: str) -> list[tuple[int, int]]:
    """
    Find what counts as a word of a passage: what stands between white space.

    :param text:
        The text.
    :returns:
        Character offsets `(start, end)` in order. Scripts without spaces are cut into words by ICU, punctuation with
        the word before it; what is longer than 40 characters is cut after each so many.
    """
    spans: list[tuple[int, int]] = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        if UNSPACED.search(match.group()):
            for left, right in _icu_words(match.group()):
                if left == 0 or _WORD.search(match.group(), left, right):
                    spans.append((start + left, start + right))
                else:
                    spans[-1] = (spans[-1][0], start + right)
        else:
            spans.append((start, end))
    return [(at, min(at + _LONGEST_WORD, end)) for start, end in spans for at in range(start, end, _LONGEST_WORD)]


def trimmed(text: str, offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """
    Move tokens' starts past white space: byte-level tokenizers count the space before a word to it.

    :param text:
        The text.
    :param offsets:
        Character offsets `(start, end)` of its tokens.
    :returns:
        The same; those of white space alone stay.
    """
    spans = []
    for start, end in offsets:
        said = text[start:end].lstrip()
        spans.append((end - len(said) if said else start, end))
    return spans


def passage_spans(
    text: str, words: int, overlap: int, tokens: list[tuple[int, int]] | None = None
) -> Iterator[tuple[int, int]]:
    """
    Cut a text into passages that end with a sentence, where one ends in their second half.

    :param text:
        The text.
    :param words:
        Words of a passage, at most (see `token_spans`).
    :param overlap:
        Words that two passages share, at most if whole sentences fit, else so many.
    :param tokens:
        What counts as a word instead: character offsets `(start, end)` in order.
    :returns:
        Character offsets `(start, end)` in order.
    """
    tokens = token_spans(text) if tokens is None else tokens
    starts = [start for start, _ in tokens]
    # Sentences begin at these tokens; some of sentencex's lie within one, as after a bracket.
    borders = sorted({bisect_left(starts, start) for start, _ in sentence_spans(text)} | {len(tokens)})
    first = 0
    while first < len(tokens):
        last = min(first + words, len(tokens))
        if last < len(tokens):
            border = borders[bisect_right(borders, last) - 1]
            last = border if border > first + words // 2 else last
        yield tokens[first][0], tokens[last - 1][1]
        if last == len(tokens):
            return
        shared = borders[bisect_left(borders, last - overlap)]
        first = max(first + 1, shared if shared <= last else last - overlap)


def _sentence_pieces(text: str) -> Iterator[tuple[int, int]]:
    import sentencex

    half = sum(map(str.isalpha, text)) / 2
    language = next((name for name, script in _SCRIPTS.items() if len(script.findall(text)) > half), "en")
    plain = re.sub(r"[^\S\n]", " ", text)  # sentencex panics at some white space of several bytes
    breaks = [0, *(match.end() for match in _BLOCK.finditer(plain)), len(plain)]
    for start, end in pairwise(breaks):
        at = start
        while at < end:
            pieces = sentencex.segment(language, plain[at : min(at + _LONGEST_BLOCK, end)])
            if at + _LONGEST_BLOCK < end and len(pieces) > 1:
                pieces.pop()  # cut off: it begins the next part
            for piece in pieces:
                yield at, at + len(piece)
                at += len(piece)


def _is_short(piece: str) -> bool:
    return _words_at_sight(piece) < _FEWEST_WORDS


def _words_at_sight(piece: str) -> float:
    """Two characters of a script without spaces count as a word: what is cited needs no dictionary."""
    unspaced = len(UNSPACED.findall(piece))
    return len(UNSPACED.sub("", piece).split()) + unspaced / 2


def _is_heading(block: str, *, alone: bool) -> bool:
    if _NOTICE.match(block) or (alone and block.startswith("#")):
        return True
    if not alone or _ITEM.match(block) or _ends_sentence(block):
        return False
    return _words_at_sight(block) <= _HEADING_WORDS


def _ends_sentence(piece: str) -> bool:
    bare = piece.rstrip("\"'*_`")
    while bare and category(bare[-1]) in _CLOSING:
        bare = bare[:-1].rstrip("\"'*_`")
    return bool(bare) and category(bare[-1]) == "Po" and bare[-1] not in _NO_END


def _icu_words(text: str) -> Iterator[tuple[int, int]]:
    from icu4py.breakers import WordBreaker  # 40 MB, for those who need it

    return WordBreaker(text, "und").segments()
