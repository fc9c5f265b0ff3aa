"""Two towers: a user and an item each become a vector, and their product is the score."""

import torch
from torch import nn

USERS, ITEMS, AGES, CATEGORIES = 400, 600, 5, 12
WIDE, DEEP = 32, 64


class Tower(nn.Module):
    """A number and a group, (..., 2) int64, to a vector (..., WIDE)."""

    def __init__(self, numbers: int, groups: int) -> None:
        super().__init__()
        self.number = nn.Embedding(numbers, WIDE)
        self.group = nn.Embedding(groups, WIDE)
        self.layers = nn.Sequential(nn.Linear(WIDE, DEEP), nn.ReLU(), nn.Linear(DEEP, WIDE))
        for table in (self.number, self.group):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, of: torch.Tensor) -> torch.Tensor:
        """Both embeddings, and what the layers add."""
        found = self.number(of[..., 0]) + self.group(of[..., 1])
        return found + self.layers(found)


class TwoTowers(nn.Module):
    """Inputs user (N, 2) and items (N, shown, 2), output (N, shown) scores."""

    def __init__(self) -> None:
        super().__init__()
        self.user_tower = Tower(USERS, AGES)
        self.item_tower = Tower(ITEMS, CATEGORIES)
        self.liked = nn.Linear(WIDE, 1)  # by everyone

    def forward(self, user: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The product of the towers, and what the item has for everyone."""
        item = self.item_tower(items)
        return (item @ self.user_tower(user)[:, :, None] + self.liked(item))[..., 0]


def build() -> nn.Module:
    """Untrained; `train.py` makes its weights."""
    return TwoTowers()
