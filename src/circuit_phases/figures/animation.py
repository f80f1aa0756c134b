"""The animation: attention maps of every layer and accuracy over training, as GIF and MP4."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.artist import Artist

from circuit_phases.figures.data import FigureData
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
from circuit_phases.figures.readings import (
    attention_map,
    ceilings,
    checkpoints,
    layers_and_heads,
    phases,
    training_curve,
)
from circuit_phases.figures.style import INK, RED, styling
from circuit_phases.files import UserError, replacing

WIDTH, DOTS = 6.4, 150
"""Inches, and pixels per inch: 960 pixels wide."""
RATE, HOLD = 5, 10
"""Frames per second, one per checkpoint; times that the last is repeated."""


@styling
def animation(data: FigureData) -> FuncAnimation:
    """A frame per checkpoint of the first run of the first series: step 0, then from where accuracy rises.

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
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, layers], squeeze=False)[0]
    axes, grid = left.subplots(), right.subplots(heads, layers, squeeze=False)
    curve, found = training_curve(data, run, seed), phases(data, run, seed)
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
    figure.set_layout_engine("none")
    first = axes.get_xlim()[0]
    shown = [step for step in saved if step == saved[0] or step >= first]

    def show(step: int) -> list[Artist]:
        accuracy = np.interp(step, curve.index, curve)
        dot.set_data([max(step, first)], [accuracy])
        title.set_text(f"step {step:,}: accuracy {accuracy:.2f}")
        for (layer, head), mesh in maps.items():
            mesh.set_array(np.ma.masked_invalid(attention_map(data, run, seed, step, layer, head)))
        return [dot, title, *maps.values()]

    return FuncAnimation(figure, show, frames=[*shown, *shown[-1:] * HOLD], interval=1000 / RATE, blit=False)


@styling
def save_films(film: FuncAnimation, gif: Path, mp4: Path) -> None:
    """Write both files, or neither.

    Raises:
        UserError: if there is no ffmpeg, a folder cannot be written to, or the disk is full.
    """
    coded = ["-pix_fmt", "yuv420p", "-crf", "20", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    with (
        matplotlib.rc_context({"animation.ffmpeg_path": ffmpeg()}),
        tempfile.TemporaryDirectory() as folder,
        replacing(gif) as gif_file,
        replacing(mp4) as mp4_file,
    ):
        writers: dict[Path, AbstractMovieWriter] = {
            gif_file: PillowWriter(fps=RATE),
            mp4_file: FFMpegWriter(fps=RATE, codec="h264", extra_args=coded),
        }
        for (target, writer), ending in zip(writers.items(), ("gif", "mp4"), strict=True):
            # Both writers tell the format by the name's ending, which the temporary name has not.
            written = Path(folder) / f"film.{ending}"
            film.save(written, writer=writer, dpi=DOTS)
            shutil.copyfile(written, target)


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
