"""The animation: attention maps of every layer and accuracy over training, as GIF and MP4."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import (
    accuracy_axis,
    draw_attention,
    draw_ceilings,
    legend_above,
    new_figure,
    phase_handles,
    seed_curves,
    shade_phases,
    step_axis,
)
from circuit_phases.figures.style import INK, RED, styling
from circuit_phases.files import UserError, replacing
from circuit_phases.readings import (
    attention_map,
    ceilings,
    checkpoints,
    layers_and_heads,
    phases,
)

WIDTH, DOTS = 6.4, 150
"""Inches, and pixels per inch: 960 pixels wide."""
RATE, HOLD = 5, 10
"""Frames per second, one per checkpoint; times that the last is repeated."""


@dataclass(frozen=True)
class Film:
    """A figure that shows one step of training after another; the last is held."""

    figure: Figure
    show: Callable[[int], None]
    steps: list[int]

    @styling
    def frames(self) -> list[Image.Image]:
        """A picture per step."""
        canvas = FigureCanvasAgg(self.figure)
        found = []
        for step in self.steps:
            self.show(step)
            canvas.draw()
            found.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
        return [*found, *found[-1:] * HOLD]


@styling
def animation(data: FigureData) -> Film:
    """The checkpoints of the first run of the first series: step 0, then from where accuracy rises.

    `data` holds the tables training, attention, phases and theory.

    Raises:
        UserError: if there is no attention to show.
    """
    if not data.series or data.table("attention", data.series[0].run, data.series[0].seeds[0]).empty:
        raise UserError("The animation has no attention maps to show. Run the circuits of its experiment first.")
    run, seed = data.series[0].run, data.series[0].seeds[0]
    places = layers_and_heads(data.table("attention", run, seed))
    layers, heads = (len({place[axis] for place in places}) for axis in (0, 1))
    saved = checkpoints(data, run, seed)
    figure = new_figure(WIDTH, 0.8 + 1.6 * max(heads, 1))
    figure.set_dpi(DOTS)
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, layers], squeeze=False)[0]
    axes, grid = left.subplots(), right.subplots(heads, layers, squeeze=False)
    curve, found = data.training_curve(run, seed), phases(data, run, seed)
    seed_curves(axes, [curve])
    shade_phases(axes, found)
    draw_ceilings(axes, ceilings(data, run, seed))
    accuracy_axis(axes)
    step_axis(axes, [curve])
    legend_above(left, [phase_handles(found)[:2], phase_handles(found)[2:]])
    (dot,) = axes.plot([], [], "o", color=RED, markersize=4, zorder=4)
    maps = {
        (layer, head): draw_attention(grid[head - 1, layer - 1], attention_map(data, run, seed, saved[0], layer, head))
        for layer, head in places
    }
    for layer, head in places:
        grid[head - 1, layer - 1].set_title(f"Layer {layer}" + f", head {head}" * (heads > 1), loc="center")
    grid[0, 0].set_ylabel("attending token")
    title = right.suptitle("step 0", color=INK)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    first = axes.get_xlim()[0]
    shown = [step for step in saved if step == saved[0] or step >= first]

    def show(step: int) -> None:
        accuracy = np.interp(step, curve.index, curve)
        dot.set_data([max(step, first)], [accuracy])
        title.set_text(f"step {step:,}: accuracy {accuracy:.2f}")
        for (layer, head), mesh in maps.items():
            mesh.set_array(np.ma.masked_invalid(attention_map(data, run, seed, step, layer, head)))

    return Film(figure, show, shown)


def save_films(film: Film, gif: Path, mp4: Path) -> None:
    """Write both files, or neither.

    Raises:
        UserError: if there is no ffmpeg or it fails, a folder cannot be written to, or the disk is full.
    """
    frames = film.frames()
    width, height = frames[0].size
    pixels = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(RATE), "-i", "-"]
    coded = ["-c:v", "h264", "-pix_fmt", "yuv420p", "-crf", "20", "-threads", "1"]
    coded += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4"]
    with replacing(gif) as gif_file, replacing(mp4) as mp4_file:
        frames[0].save(gif_file, "gif", save_all=True, append_images=frames[1:], duration=1000 // RATE, loop=0)
        done = subprocess.run(
            [ffmpeg(), "-loglevel", "error", "-y", *pixels, *coded, str(mp4_file)],
            input=b"".join(frame.tobytes() for frame in frames),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"ffmpeg cannot write {mp4}: {done.stderr.decode(errors='replace').strip()}")


def ffmpeg() -> str:
    """The program that writes MP4: the one on PATH, or that of the package imageio-ffmpeg.

    Raises:
        UserError: if there is neither.
    """
    on_path = shutil.which("ffmpeg")
    if on_path:
        return on_path
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError("The animation needs ffmpeg: install it, or `pip install imageio-ffmpeg`.") from error
