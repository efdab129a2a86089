"""Rows that papers print for these sets, in the tables' own scales; see tables.COLUMNS."""

from __future__ import annotations

from .tables import Line, published_line

ORDER = ("structure", "psnr", "lpips", "mse", "ssim", "clip", "clip_edited")
# Stable Diffusion 1.4 with Prompt-to-Prompt as the editor; PnP Inversion (arXiv 2310.01506), table 1.
PIE_BENCH = {
    "published: DDIM": (69.43, 17.87, 208.80, 219.88, 71.14, 25.01, 22.44),
    "published: null text": (13.44, 27.03, 60.67, 35.86, 84.11, 24.75, 21.86),
    "published: negative prompt": (16.17, 26.21, 69.01, 39.73, 83.40, 24.61, 21.87),
    "published: PnP (direct) inversion": (11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10),
}
PIE_BENCH_SOURCE = "Stable Diffusion 1.4 with Prompt-to-Prompt, all 700 pictures: PnP Inversion (arXiv 2310.01506)."


def pie_bench() -> list[Line]:
    return [published_line(name, dict(zip(ORDER, values))) for name, values in PIE_BENCH.items()]
