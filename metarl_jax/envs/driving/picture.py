"""Pictures of a town from above: the road as it bends, the crossing, the cars, and what the agent is not told."""

from typing import Any

import jax
import numpy as np

from metarl_jax.envs.driving import road, traffic

SIZE = (320, 208)  # width and height of a picture, pixels
SCALE = 4.0  # pixels a metre
BEHIND = 20.0  # m of road from the left edge of a picture to the agent
SHOWN = np.arange(-40.0, 101.0, 2.0)  # m from the agent, where the centre line is drawn
FAR = 60.0  # m that a crossing road reaches to either side
GRASS, ASPHALT, PAINT = (222, 233, 214), (128, 132, 138), (245, 245, 245)
AGENT, PAYING, OTHER, INK = (37, 99, 175), (205, 45, 45), (64, 64, 64), (30, 30, 30)
SIDES = {1: "left", -1: "right"}
PRIORITIES = {1: "who comes from the left first", -1: "who comes from the right first", 0: "main road first"}
_SHARPER = 2  # pictures are drawn so many times larger


def frames(env: Any, states: Any, town: Any) -> np.ndarray:
    """States [T] of one episode in `town` as pictures, uint8 [T, height, width, 3].

    The road leads to the right where the agent is. The agent is blue, and red in a step in which it pays a cost.
    """
    costs = jax.vmap(lambda state: env.costs(state.car, state.traffic, town))(states)
    states, town, paying = jax.tree.map(np.asarray, (states, town, costs.sum(axis=1) > 0))
    moments = [jax.tree.map(lambda x, t=t: x[t], states) for t in range(len(paying))]
    return np.stack([_frame(state, town, bool(pays)) for state, pays in zip(moments, paying, strict=True)])


def centre_line(state: Any) -> tuple[np.ndarray, np.ndarray]:
    """(places [n, 2] m, directions [n] rad) of the centre line at `SHOWN`, in the plane of the picture.

    Directions are the integral of the curvature and places that of the directions, by the trapezoidal rule.
    """
    bends = np.asarray(road.curvature(state.car.along + SHOWN, state.bends, state.phases))
    direction = _integral(bends)
    return np.stack([_integral(np.cos(direction)), _integral(np.sin(direction))], axis=1), direction


def _integral(values: np.ndarray) -> np.ndarray:
    """From the agent's place, where `SHOWN` is 0, to each of the others."""
    total = np.append(0.0, np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(SHOWN)))
    return total - total[np.searchsorted(SHOWN, 0.0)]


def _frame(state: Any, town: Any, pays: bool) -> np.ndarray:
    from PIL import Image, ImageDraw

    places, direction = centre_line(state)

    def plane(along: Any, left: Any) -> np.ndarray:
        """[n, 2] m: the points `left` of the centre line, at `along` m from the agent."""
        along, left = np.broadcast_arrays(np.asarray(along, float), left)
        angle = np.interp(along, SHOWN, direction)
        normal = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
        x, y = (np.interp(along, SHOWN, places[:, i]) for i in (0, 1))
        return np.stack([x, y], axis=-1) + np.asarray(left)[..., None] * normal

    scale = SCALE * _SHARPER
    middle = np.array([BEHIND * scale, SIZE[1] * _SHARPER / 2])

    def pixels(points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(p) for p in middle + scale * points * [1, -1]]

    image = Image.new("RGB", (SIZE[0] * _SHARPER, SIZE[1] * _SHARPER), GRASS)
    draw = ImageDraw.Draw(image)
    crossing = float(state.traffic.crossing - state.car.along)
    if SHOWN[0] < crossing < SHOWN[-1]:
        start, heading = plane(crossing, 0.0), np.interp(crossing, SHOWN, direction)
        forward, normal = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        draw.polygon(pixels(_rectangle(start, forward, road.LANE, FAR)), fill=ASPHALT)
        draw.line(pixels(np.stack([start - FAR * normal, start + FAR * normal])), fill=PAINT, width=_SHARPER)
    edges = np.concatenate([plane(SHOWN, road.LANE), plane(SHOWN[::-1], -road.LANE)])
    draw.polygon(pixels(edges), fill=ASPHALT)
    dash = 4.0 - float(state.car.along) % 8.0  # the paint stays where it is on the road
    for begin in np.arange(SHOWN[0] + dash, SHOWN[-1], 8.0):
        draw.line(pixels(plane([begin, begin + 4.0], 0.0)), fill=PAINT, width=_SHARPER)

    ahead, left, half_along, half_across = (
        np.asarray(x) for x in traffic.rectangles(state.traffic, town.sign, state.car)
    )
    for x, y, a, b in zip(ahead, left + state.car.offset, half_along, half_across, strict=True):
        if SHOWN[0] < x < SHOWN[-1] and abs(y) < FAR:
            draw.polygon(pixels(plane(x + a * np.array([-1, 1, 1, -1]), y + b * np.array([-1, -1, 1, 1]))), fill=OTHER)
    heading = float(state.car.heading)
    forward = np.array([np.cos(heading), np.sin(heading)])
    own = plane(0.0, float(state.car.offset))
    draw.polygon(pixels(_rectangle(own, forward, road.LENGTH / 2, road.WIDTH / 2)), fill=PAYING if pays else AGENT)

    image = image.resize(SIZE, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    hidden = (
        f"drive on the {SIDES[int(town.side)]}, {float(town.limit):.0f} m/s, {PRIORITIES[int(town.priority)]}, "
        f"grip {float(town.grip):.1f}"
    )
    draw.rectangle((0, SIZE[1] - 28, SIZE[0], SIZE[1]), fill="white")
    draw.text((4, SIZE[1] - 26), hidden, fill=INK)
    draw.text((4, SIZE[1] - 14), f"speed {float(state.car.speed):.1f} m/s", fill=INK)
    return np.asarray(image)


def _rectangle(middle: np.ndarray, forward: np.ndarray, half_along: float, half_across: float) -> np.ndarray:
    across = np.array([-forward[1], forward[0]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return middle + half_along * corners[:, :1] * forward + half_across * corners[:, 1:] * across
