"""A byte-level BPE tokenizer trained on a few sentences, laid out like the project's own."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from model_server.chat.markers import CONTROL_MARKERS

FIXED_TEXT = "This text <|im_end|> is one token.\n"
_CORPUS = ("assistant user tool system", "def add(a, b):\n    return a + b\n", "<function=bash>\n<parameter=command>ls")


def small_tokenizer(*, special_markers: bool = True) -> Tokenizer:
    """``special_markers`` False lays the markers out as the published vocabulary does: added but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    markers = [AddedToken(marker, special=special_markers, normalized=False) for marker in CONTROL_MARKERS]
    (tokenizer.add_special_tokens if special_markers else tokenizer.add_tokens)(markers)
    tokenizer.add_tokens([AddedToken(FIXED_TEXT, special=False, normalized=False)])
    return tokenizer
