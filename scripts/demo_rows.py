"""Rows of token ids that the demo model is trained and measured on, and its loss on them."""

import torch
from torch.nn import functional

from demo_stories import document

CONTEXT = 2048  # positions the model is trained for
ROW = 384  # tokens in an ordinary training row, enough for a story and questions about it


class Documents:
    """Token ids of a split's documents, made as they are asked for, in order."""

    def __init__(self, tokenizer, split):
        self.tokenizer, self.split, self.next = tokenizer, split, 0

    def row(self, length):
        """The next `length` tokens. A row begins with a new document; the last document is cut at the row's end."""
        ids = []
        while len(ids) < length:
            ids += self.tokenizer.encode(document(self.split, self.next)).ids
            self.next += 1
        return ids[:length]

    def batch(self, rows, length):
        """[rows, length] token ids."""
        return torch.tensor([self.row(length) for _ in range(rows)])


def loss_of(model, ids):
    """Mean cross-entropy in nats of each token given those before it in its row; every token counts, prompts too."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
