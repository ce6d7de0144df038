"""Where two answers differ, word by word, to be marked on request.

Left out on purpose: meaning (a word that was changed is marked, a fact that was changed looks the same), and very long
texts, where the comparison would take seconds and most of both would be marked.
"""

import difflib
import re

LONGEST = 2_000  # words and signs of one text
_PIECE = re.compile(r"\s+|\w+|[^\w\s]")

Pieces = list[tuple[str, bool]]  # a text in order, cut up: (piece, whether the other text lacks it here)


def differences(one: str, two: str) -> tuple[Pieces, Pieces] | None:
    """Both texts cut into pieces that are alike and pieces that are not; None where one is too long to compare.

    The pieces of a text, put together, are the text.

    Example:
        >>> differences("on its way", "on the way")[0]
        [('on ', False), ('its', True), (' way', False)]
    """
    words = [_PIECE.findall(one), _PIECE.findall(two)]
    if max(map(len, words)) > LONGEST:
        return None
    first: Pieces = []
    second: Pieces = []
    matcher = difflib.SequenceMatcher(None, *words, autojunk=False)
    for tag, start_1, end_1, start_2, end_2 in matcher.get_opcodes():
        for pieces, part in ((first, words[0][start_1:end_1]), (second, words[1][start_2:end_2])):
            if part:
                pieces.append(("".join(part), tag != "equal"))
    return first, second
