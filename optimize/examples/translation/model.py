"""Sequence to sequence: an encoder reads the digits, and a decoder that attends to them writes a word at a time.

The decoder chooses the likeliest word and goes on from it (greedy), a fixed number of times: one graph holds all.
"""

import torch
from torch import nn

DIGITS, PLACES, WORDS, LENGTH, WIDE = 10, 4, 31, 8, 96


class Translator(nn.Module):
    """Input digits (N, 4) int64; output word numbers (N, 8) int64, -1 behind the last.

    Within, word numbers are one higher: 0 is the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digit = nn.Embedding(DIGITS, WIDE)
        self.place = nn.Parameter(torch.randn(PLACES, WIDE))
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(PLACES * WIDE, 256), nn.ReLU(), nn.Linear(256, PLACES * WIDE)
        )
        self.word = nn.Embedding(WORDS + 1, WIDE)
        self.asks = nn.Linear(WIDE, WIDE)
        self.gates = nn.Linear(3 * WIDE, 2 * WIDE)
        self.change = nn.Linear(3 * WIDE, WIDE)
        self.choice = nn.Linear(2 * WIDE, WORDS + 1)

    def encode(self, digits: torch.Tensor) -> torch.Tensor:
        """(N, 4) to a vector for each digit, (N, 4, WIDE), which knows of the others."""
        seen = self.digit(digits) + self.place
        return seen + self.encoder(seen).view(-1, PLACES, WIDE)

    def step(self, memory: torch.Tensor, state: torch.Tensor, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From the digits' vectors, the state (N, WIDE) and the last word (N,): scores of the next word, and the state.

        The state is that of a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).
        """
        weights = torch.softmax((memory @ self.asks(state)[:, :, None]) / WIDE**0.5, 1)
        read = (memory * weights).sum(1)
        seen = torch.cat([self.word(word), read], 1)
        reset, update = torch.sigmoid(self.gates(torch.cat([seen, state], 1))).chunk(2, 1)
        new = torch.tanh(self.change(torch.cat([seen, reset * state], 1)))
        state = (1 - update) * state + update * new
        return self.choice(torch.cat([state, read], 1)), state

    def taught(self, digits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Scores (N, 8, words) where each step is told the right word before it: what training needs."""
        memory = self.encode(digits)
        state, word, scores = memory.mean(1), torch.zeros_like(words[:, 0]), []
        for place in range(LENGTH):
            found, state = self.step(memory, state, word)
            scores.append(found)
            word = words[:, place]
        return torch.stack(scores, 1)

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Decode greedily; what follows an end is an end."""
        memory = self.encode(digits)
        state, word = memory.mean(1), torch.zeros_like(digits[:, 0])
        going, words = torch.ones_like(word), []
        for _ in range(LENGTH):
            scores, state = self.step(memory, state, word)
            word = scores.argmax(1) * going
            going = (word > 0).to(word.dtype)
            words.append(word)
        return torch.stack(words, 1) - 1


def build() -> nn.Module:
    """Untrained; `train.py` makes its weights."""
    return Translator()
