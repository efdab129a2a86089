"""Give Papercut's text encoder a start: it learns to say, at each word, what the caption says of that thing.

A UNet trained from scratch on a random text encoder is slow to learn which colour belongs to which cut-out. Captions
alone teach it: from the hidden state at a shape word, its colour and pattern must be readable; at the word "ground",
the tone and kind; at the end of the text, the whole list. The diffusion model then reads the frozen encoder.

    python -m palimpsest.papercut.train_text --minutes 6
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel

from .configs import TEXT
from .data import CACHE, DEVICE
from .scenes import GROUNDS, PATTERNS, SPLITS, Scene, sample_scene
from .shapes import COLOURS, SHAPES, TONES
from .text import encode, shared_tokenizer, text_config

PATH = CACHE / "text.pt"
LENGTH = 40  # no caption is longer; the encoder is causal, so the padding that is left out changes nothing before it
KEYS = {"colour": tuple(COLOURS), "pattern": PATTERNS, "shape": tuple(SHAPES), "tone": tuple(TONES), "kind": GROUNDS}
PAIRS = {(s, c): i for i, (s, c) in enumerate((s, c) for s in SHAPES for c in COLOURS)}


class Readout(nn.Module):
    """Linear heads on the hidden states; training wheels, thrown away afterwards."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({key: nn.Linear(TEXT.width, len(words)) for key, words in KEYS.items()})
        self.whole = nn.Linear(TEXT.width, len(PAIRS) + len(TONES) + len(GROUNDS))

    def forward(self, states: Tensor, places: dict[str, Tensor], ends: Tensor, whole: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.whole(states[torch.arange(len(ends)), ends]), whole) * 8
        for key, table in places.items():
            rows, columns, wanted = table.T
            loss = loss + F.cross_entropy(self.heads[key](states[rows, columns]), wanted)
        return loss


def word_ends(tokens: list[str]) -> dict[str, list[int]]:
    """Word -> positions of its last token, in order."""
    places: dict[str, list[int]] = {}
    word = ""
    for i, token in enumerate(tokens):
        word += token.removesuffix("</w>")
        if token.endswith("</w>"):
            places.setdefault(word, []).append(i)
            word = ""
    return places


def targets(scenes: list[Scene], ids: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Where (row, token) each answer is due and which it is; the end positions; the whole list as a 0/1 vector."""
    table: dict[str, list[tuple[int, int, int]]] = {key: [] for key in KEYS}
    whole, ends = torch.zeros(len(scenes), len(PAIRS) + len(TONES) + len(GROUNDS)), []
    for row, scene in enumerate(scenes):
        places = word_ends(shared_tokenizer().convert_ids_to_tokens(ids[row].tolist()))
        ends.append(int((ids[row] == ids[row, -1]).nonzero()[0]))  # the first <|endoftext|>, the pooled one
        seen: dict[str, int] = {}
        for item in scene.objects:
            at = places[item.shape][seen.setdefault(item.shape, 0)]
            seen[item.shape] += 1
            for key in ("colour", "pattern", "shape"):
                table[key].append((row, at, KEYS[key].index(getattr(item, key))))
            whole[row, PAIRS[item.shape, item.colour]] = 1
        for key in ("tone", "kind"):
            table[key].append((row, places["ground"][-1], KEYS[key].index(getattr(scene.ground, key))))
        whole[row, len(PAIRS) + tuple(TONES).index(scene.ground.tone)] = 1
        whole[row, len(PAIRS) + len(TONES) + GROUNDS.index(scene.ground.kind)] = 1
    return {key: torch.tensor(rows) for key, rows in table.items() if rows}, torch.tensor(ends), whole


def batch_of(first: int, size: int) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    scenes = [sample_scene(SPLITS["train"][(first + i) % len(SPLITS["train"])]) for i in range(size)]
    ids = encode([s.caption for s in scenes])[:, :LENGTH]
    return ids, *targets(scenes, ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=48)
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder, readout = CLIPTextModel(text_config()).to(DEVICE), Readout().to(DEVICE)
    weights = [*encoder.parameters(), *readout.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01)
    spent, step, last = 0.0, 0, time.time()
    if PATH.exists():
        state = torch.load(PATH, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        readout.load_state_dict(state["readout"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    while spent < 60 * args.minutes:
        ids, places, ends, whole = batch_of(step * args.batch, args.batch)
        ids, ends, whole = (part.to(DEVICE) for part in (ids, ends, whole))
        places = {key: table.to(DEVICE) for key, table in places.items()}
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1.02 - spent / 60 / args.minutes)
        loss = readout(encoder(input_ids=ids).last_hidden_state, places, ends, whole)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
        spent, last = spent + time.time() - last, time.time()
        if step % 50 == 0:
            print(f"{spent / 60:.1f} min, step {step}, loss {loss.item():.4f}", flush=True)
            torch.save(
                {
                    "encoder": encoder.state_dict(),
                    "readout": readout.state_dict(),
                    "step": step,
                    "optimiser": optimiser.state_dict(),
                    "spent": spent,
                },
                PATH,
            )


if __name__ == "__main__":
    main()
