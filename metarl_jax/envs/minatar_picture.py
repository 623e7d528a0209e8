"""Pictures of MinAtar's games: the board in colours, and which action does what, which the agent is not told."""

from typing import Any

import jax
import numpy as np

CELL = 24  # pixels a cell of the board
ABOVE, BELOW, BESIDE = 18, 34, 8  # pixels for a label, for what the actions do, and up to the next picture
DOES = ("nothing", "left", "up", "right", "down", "fire")  # MinAtar's six actions
GROUND, INK, CHOSEN = (24, 26, 32), (60, 60, 60), (205, 45, 45)
COLOURS = np.array(  # Okabe & Ito's, told apart by the colour-blind; four lighter ones of Seaquest's last channels
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (240, 228, 66)]
    + [(204, 121, 167), (86, 180, 233), (180, 180, 180), (150, 220, 190), (250, 200, 140)],
    np.uint8,
)


def frames(env: Any, states: Any, task: Any) -> np.ndarray:
    """States [T] of one episode of a game as pictures, uint8 [T, height, width, 3].

    A cell has the colour of the last of the game's channels that is on in it, in the game's own order. Below, in the
    order of the task's actions, is what each does; red is what was done, by choice or since an action stuck.
    """
    on = np.asarray(jax.vmap(env.board)(states.game)) > 0.5
    last = np.where(on.any(axis=-1), on.shape[-1] - 1 - np.argmax(on[..., ::-1], axis=-1), -1)
    cells = np.where((last < 0)[..., None], np.array(GROUND, np.uint8), COLOURS[last])
    boards = cells.repeat(CELL, axis=1).repeat(CELL, axis=2)
    pictures = np.pad(boards, [(0, 0), (ABOVE, 0), (0, BESIDE), (0, 0)], constant_values=255)
    legends = [_legend(pictures.shape[2], env.does, np.asarray(task.actions), done) for done in range(env.num_actions)]
    done = np.asarray(states.action)
    return np.stack([np.concatenate([p, legends[d]]) for p, d in zip(pictures, done, strict=True)])


def _legend(width: int, does: tuple[str, ...], actions: np.ndarray, done: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, BELOW), (255, 255, 255))
    draw, x, y = ImageDraw.Draw(image), 4.0, 4
    for number, action in enumerate(actions):
        text = f"{number} {does[action]}"
        if x + draw.textlength(text) > width - 4:
            x, y = 4.0, y + 15
        draw.text((x, y), text, fill=CHOSEN if action == done else INK)
        x += draw.textlength(text) + 10
    return np.asarray(image)
