"""A tokenizer whose numbers one can count by hand: a word is a token."""

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def word_tokenizer(
    words: Sequence[str], *, framed: bool = True, types: bool = True, shift: int = 0
) -> PreTrainedTokenizerFast:
    """Words are numbered from 4 + shift. framed: `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`; types: token types for the model."""
    numbers = {word: index for index, word in enumerate(SPECIAL)} | {
        word: 4 + shift + index for index, word in enumerate(words)
    }
    backend = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names if types else names[::2]
    )
