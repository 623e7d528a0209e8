"""The road and the car on it: curvature, the bicycle, the limit of the tyres, and what rays meet.

All places are in the road's own coordinates: `along` s is the arc length of its centre line [m], `offset` d the
distance from it, to the left [m], and a `heading` e is measured from the direction of the road there [rad]. A bend is
a curvature kappa(s), positive to the left.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

DT = 0.1  # s, one step
GRAVITY = 9.81  # m/s^2
LANE = 3.5  # m, width of each of the two lanes: the road ends LANE from its centre line
LENGTH, WIDTH = 4.5, 1.8  # m, of every car
WHEELBASE = 2.7  # m
MAX_STEERING = 0.3  # rad
SLIDING = 0.5  # share of their grip that sliding tyres hold sideways
MAX_ACCELERATION = 5.0  # m/s^2, forwards and braking
MAX_SPEED = 25.0  # m/s
FENCE = 8.0  # m from the centre line: no car gets further
WAVELENGTHS = (127.0, 71.0)  # m, of the two waves of which bends are made
MAX_BENDS = (0.014, 0.008)  # 1/m, their largest amplitudes: no bend is narrower than 45 m
RAY_ANGLES = np.deg2rad([-140.0, -90.0, -50.0, -25.0, -10.0, 0.0, 10.0, 25.0, 50.0, 90.0, 140.0])  # from the heading
RAY_LENGTH = 60.0  # m
_TINY = 1e-6


class Car(NamedTuple):
    """The agent's car, [] each."""

    along: Array  # m
    offset: Array  # m
    heading: Array  # rad in [-pi, pi)
    speed: Array  # m/s, never negative


def curvature(along: Array, bends: Array, phases: Array) -> Array:
    r"""The curvature [1/m] of the centre line at each of the places `along` [m], of any shape.

    .. math::

        \kappa(s) = \sum_{i=1}^{2} b_i \sin(2 \pi s / \lambda_i + \phi_i)

    Args:
      bends: [2] amplitudes [1/m]. phases: [2] in rad.
    """
    long, short = (bends[i] * jnp.sin(2 * np.pi / w * along + phases[i]) for i, w in enumerate(WAVELENGTHS))
    return long + short


def bicycle(car: Car, steering: Array, acceleration: Array, grip: Array, bends: Array, phases: Array) -> tuple:
    r"""(the car after one step, whether it slipped [] bool): a kinematic bicycle, seen along the road.

    In the plane, with the reference point on the rear axle (Rajamani 2012, section 2.2; Polack et al. 2017, eq. 1,
    without a slip angle there):

    .. math::

        \dot x = v \cos \psi, \quad \dot y = v \sin \psi, \quad \dot \psi = v \kappa_c, \quad \dot v = a, \quad
        \kappa_c = \tan(\delta) / L

    and along a road of curvature kappa, with e = psi - (the road's direction), which is the same motion:

    .. math::

        \dot s = \frac{v \cos e}{1 - d \kappa(s)}, \quad \dot d = v \sin e, \quad \dot e = v \kappa_c - \kappa(s) \dot s

    Tyres hold a force of `grip` times the weight. Acceleration takes its part first, and turning gets the rest:
    abs(a) <= grip g and v^2 abs(kappa_c) <= sqrt((grip g)^2 - a^2). A car that is steered more slips: sliding tyres
    hold SLIDING of that, and it follows the wider arc. One step of the midpoint rule, error O(DT^3).

    Args:
      steering: [] delta in rad. acceleration: [] a in m/s^2. grip: [] friction coefficient.
    """
    hold = grip * GRAVITY
    wanted = jnp.clip(acceleration, -hold, hold)
    new_speed = jnp.clip(car.speed + DT * wanted, 0, MAX_SPEED)
    speed = (car.speed + new_speed) / 2
    sideways = jnp.sqrt(jnp.maximum(hold * hold - wanted * wanted, 0))
    turn = jnp.tan(steering) / WHEELBASE
    sharpest = sideways / jnp.maximum(speed * speed, _TINY)
    slipped = jnp.abs(turn) > sharpest
    held = SLIDING * sharpest
    turn = jnp.where(slipped, jnp.clip(turn, -held, held), turn)
    cosine, sine = jnp.cos(car.heading), jnp.sin(car.heading)
    bend = curvature(car.along + DT / 2 * speed * cosine, bends, phases)
    middle_offset = car.offset + DT / 2 * speed * sine
    pace = speed / (1 - middle_offset * bend)
    middle = car.heading + DT / 2 * (speed * turn - bend * pace * cosine)
    cosine = jnp.cos(middle)
    heading = car.heading + DT * (speed * turn - bend * pace * cosine)
    moved = Car(
        along=car.along + DT * pace * cosine,
        offset=jnp.clip(car.offset + DT * speed * jnp.sin(middle), -FENCE, FENCE),
        heading=heading - 2 * np.pi * jnp.floor(heading / (2 * np.pi) + 0.5),
        speed=new_speed,
    )
    return moved, slipped


def edge_distances(car: Car) -> Array:
    """[rays] distance [m] along each ray of `RAY_ANGLES` to the edge of the road, at most RAY_LENGTH.

    Rays are straight in the road's coordinates: they bend with the road. Beyond its edge, a ray that leads away
    from the road gives 0.
    """
    _, sine = _directions(car.heading)
    edge = jnp.where(sine > 0, LANE, -LANE)
    return jnp.clip((edge - car.offset) / sine, 0, RAY_LENGTH)


def car_distances(car: Car, ahead: Array, left: Array, half_along: Array, half_across: Array) -> Array:
    """[rays] distance [m] from the middle of the car to the first of the others that a ray meets, at most RAY_LENGTH.

    The others are rectangles along the axes of the road; by slabs (Kay and Kajiya 1986). 0 inside of one.

    Args:
      ahead, left: [N] where their middles are, from the car's, in the road's coordinates.
      half_along, half_across: [N] half of their lengths along the road and across it.
    """
    cosine, sine = (x[:, None] for x in _directions(car.heading))
    nearest_s, farthest_s = _slab(ahead[None], half_along[None], cosine)
    nearest_d, farthest_d = _slab(left[None], half_across[None], sine)
    enters = jnp.maximum(nearest_s, nearest_d)
    leaves = jnp.minimum(farthest_s, farthest_d)
    met = (leaves >= enters) & (leaves >= 0)
    return jnp.min(jnp.where(met, jnp.clip(enters, 0, RAY_LENGTH), RAY_LENGTH), axis=1)


def _directions(heading: Array) -> tuple[Array, Array]:
    """Cosine and sine [rays] of the rays, neither of them 0."""
    own_cosine, own_sine = jnp.cos(heading), jnp.sin(heading)
    cosine, sine = (jnp.asarray(f(RAY_ANGLES), heading.dtype) for f in (np.cos, np.sin))
    both = own_cosine * cosine - own_sine * sine, own_sine * cosine + own_cosine * sine
    return _away_from_zero(both[0]), _away_from_zero(both[1])


def _away_from_zero(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < _TINY, jnp.where(x < 0, -_TINY, _TINY), x)


def _slab(middle: Array, half: Array, direction: Array) -> tuple[Array, Array]:
    """When a ray enters and leaves the strip abs(x - middle) <= half."""
    a, b = (middle - half) / direction, (middle + half) / direction
    return jnp.minimum(a, b), jnp.maximum(a, b)
