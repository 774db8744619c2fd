"""alpha and max_delta_step on shares: what is left of a sum of gradients, and the gains of such weights.

XGBoost's weight of a node with sums G and H, and its part of the gain, with u = H + lambda, alpha and d = max_delta_step, are

    w = -Y / u,   Y = T(G) brought within +-d u,   T(G) = sign(G) max(|G| - alpha, 0)
    score = T(G)^2 / u                             where d is 0
    score = -(2 G w + u w^2) = Y (2 G - Y) / u     where it is not

(`trees.splitting`): Y Z / u, with Z = Y where d is 0, else 2 G - Y. Y is made of two soft thresholds:

    Y = soft_alpha(G) - soft_(alpha + d u)(G),    soft_t(G) = [G > t] (G - t) + [G < -t] (G + t)

>>> alpha, d, g, u = 1, 2, 9, 3
>>> def soft(x, t):
...     return max(x - t, 0) + min(x + t, 0)
>>> y = soft(g, alpha) - soft(g, alpha + d * u)
>>> w = -y / u
>>> y, w, -(2 * g * w + u * w * w), y * (2 * g - y) / u
(6, -2.0, 24.0, 24.0)

Gains. With u, v, U, rho and q = rho (1 - rho) of `split_finding`, and for the sums of the two sides' Y and Z

    y = Y_L + Y_R,   z = Z_L + Z_R,   e_Y = Y_L - rho y,   e_Z = Z_L - rho z

a candidate's scores add up to [(1 - rho) Y_L Z_L + rho Y_R Z_R] / (U q) = [e_Y e_Z + q y z] / (U q). From all candidates of a node,
and from "no split", Y Z / U of the node is taken. What is left has the ratio q, and these numerators; where Y and Z are G they are
those of `split_finding`:

    n = e_Y e_Z + q (y z - Y Z),    y z - Y Z = (y - Y) s,   s = y + Y where d is 0, else 2 G - y - Y
    n of none = tau Y Z + gamma U,  tau = lambda / (H + lambda)

So where all three are taken to nothing, or all are bounded, what is not 0 are small differences, not differences of what is large.

>>> from fractions import Fraction
>>> lam, h_left, h_right, g_left, g_right = 1, 2, 5, -3, 9
>>> u, v, g = h_left + lam, h_right + lam, g_left + g_right
>>> def sides(x, u):
...     y = soft(x, alpha) - soft(x, alpha + d * u)
...     return y, 2 * x - y
>>> (y_l, z_l), (y_r, z_r), (y_n, z_n) = sides(g_left, u), sides(g_right, v), sides(g, u + v - lam)
>>> rho = Fraction(u, u + v)
>>> q, y, z = rho * (1 - rho), y_l + y_r, z_l + z_r
>>> n = (y_l - rho * y) * (z_l - rho * z) + q * (y - y_n) * (2 * g - y - y_n)
>>> n / (q * (u + v)), Fraction(y_l * z_l, u) + Fraction(y_r * z_r, v) - Fraction(y_n * z_n, u + v)
(Fraction(109, 9), Fraction(109, 9))

Formats. G, u and alpha are in units of 2^-f and below 2^31 in size; d has STEP_BITS fraction bits and is at most MOST_STEP. So
thresholds have STEP_BITS bits more, and are below 2^31 2^20 + 2^10 2^20 2^31 < 2^62: no difference with G wraps. |Y k| 2^20 is below
2^51. With the bounds of `split_finding`, |G| < S and S k < 2^31:

    |Y| <= |G|, |y| <= S, |e_Y| <= S, |y - Y| <= S               below 2^31 times k
    Z, e_Z, s                                                    at most 2 S: kept as their halves
    -q Y Z <= n <= S^2                                           as n is U q times scores, less q Y Z, and each Y Z is at most G^2

so a numerator takes a bit more for its sign, and has one less (`split_finding.Scoring.score_bits`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hansa.mpc.comparison import truncate
from hansa.mpc.replicated import Address, Program, Server, add_public, multiply, product_part, reshare, together
from hansa.mpc.ring import RING64, ShareArray

STEP_BITS = 20
"""Fraction bits of max_delta_step."""

MOST_STEP = 2**10
"""Greatest max_delta_step: one beyond it hardly bounds a leaf, which is within +-16 and has eta in it."""

ROUNDED_UNITS = 8
"""Units of e_Y k by which weights that are bounded alike may seem to differ."""


def beyond_parts(g: ShareArray, bound: ShareArray) -> ShareArray:
    """Additive parts of bound - G and bound + G, (2, ...), one of which is negative where |G| > bound; local."""
    return np.stack([bound[0] - g[0], bound[0] + g[0]])


def soft_part(g: ShareArray, bound: ShareArray, beyond: ShareArray) -> ShareArray:
    """An additive part of soft_t(G) = [G > t] (G - t) + [G < -t] (G + t); local.

    Args:
        g, bound: G and t, shared in Z_2^64. beyond: signs of `beyond_parts`, shared 0 or 1, (2, 2, ...).
    """
    above, below = beyond[:, 0], beyond[:, 1]
    return product_part(RING64, above, g - bound) + product_part(RING64, below, g + bound)


@dataclass(frozen=True)
class BoundedSums:
    """Sums of gradients of nodes' sides and their thresholds: of every left side, of every right side, and of the node, in a row.

    Attributes:
        g: G, shared in Z_2^64, (2, nodes, 2 candidates + 1).
        bounds: alpha where it is not 0, and alpha + d u where d is not, in units of 2^-(f + STEP_BITS); of g's shape.
        alpha, step: alpha 2^f and d 2^STEP_BITS.
    """

    g: ShareArray
    bounds: list[ShareArray]
    alpha: int
    step: int

    @classmethod
    def of(
        cls,
        server: Server,
        left: tuple[ShareArray, ShareArray],
        node: tuple[ShareArray, ShareArray],
        upper: ShareArray,
        alpha: int,
        step: int,
    ) -> BoundedSums:
        """From (G_L, u) of candidates, (2, nodes, candidates), (G, H + lambda) of nodes and U, (2, nodes); local."""
        g_left, u_left = left
        g_node, u_node = (own[:, :, None] for own in node)
        g = np.concatenate([g_left, g_node - g_left, g_node], axis=2)
        u = np.concatenate([u_left, upper[:, :, None] - u_left, u_node], axis=2)
        least, most = (add_public(server, RING64, u * np.uint64(own), alpha << STEP_BITS) for own in (0, step))
        return cls(g, ([least] if alpha else []) + ([most] if step else []), alpha, step)

    def parts(self) -> list[ShareArray]:
        """Additive parts whose signs tell where sums are beyond each of the thresholds, (2, nodes, 2 candidates + 1) each; local."""
        return [beyond_parts(self.g << np.uint64(STEP_BITS), bound) for bound in self.bounds]

    def kept(self, server: Server, beyond: list[ShareArray], address: Address) -> Program[ShareArray]:
        """Y of every sum, in units of 2^-(f + STEP_BITS), from signs of `parts`, shared. One round."""
        wide = self.g << np.uint64(STEP_BITS)
        softs = [soft_part(wide, bound, own) for bound, own in zip(self.bounds, beyond, strict=True)]
        part = softs[0] if self.alpha else wide[0]
        return (yield from reshare(server, RING64, part - softs[-1] if self.step else part, address))

    def scaled(
        self, server: Server, kept: ShareArray, k: ShareArray, address: Address
    ) -> Program[tuple[ShareArray, ShareArray]]:
        """Y k and Z k of every sum, from `kept` and each node's k, (2, nodes). Two rounds."""
        scales = k[:, :, None]
        short = truncate(server, RING64, product_part(RING64, kept, scales), STEP_BITS, address.named("y"))
        if not self.step:
            y = yield from short
            return y, y
        y, g = yield from together(short, multiply(server, RING64, self.g, scales, address.named("g")))
        return y, g + g - y


@dataclass(frozen=True)
class BoundedTerms:
    """What numerators are made of, scaled by k: shared in Z_2^64.

    Attributes:
        e_y, half_e_z, more, half_s: e_Y, e_Z / 2, rho (y - Y) and (1 - rho) s / 2, (2, nodes, candidates).
        half_z, y_tau: Z / 2 and tau Y of the nodes, (2, nodes).
    """

    e_y: ShareArray
    half_e_z: ShareArray
    more: ShareArray
    half_s: ShareArray
    half_z: ShareArray
    y_tau: ShareArray

    def parts(self) -> tuple[ShareArray, ShareArray]:
        """Additive parts of half the numerators, but for gamma: of every candidate, and of "no split"; local."""
        own = product_part(RING64, self.e_y, self.half_e_z) + product_part(RING64, self.more, self.half_s)
        return own, product_part(RING64, self.y_tau, self.half_z)


def bounded_terms(
    server: Server,
    sums: BoundedSums,
    y: ShareArray,
    z: ShareArray,
    rho: ShareArray,
    other: ShareArray,
    tau: ShareArray,
    bits: int,
    address: Address,
) -> Program[BoundedTerms]:
    """The terms, from Y k and Z k. Two rounds.

    Args:
        y, z: from `BoundedSums.scaled`. rho, other: rho and 1 - rho, (2, nodes, candidates), and tau: (2, nodes), with `bits`.
    """
    count, ring = rho.shape[2], RING64
    y_left, z_left, y_node, z_node = y[:, :, :count], z[:, :, :count], y[:, :, -1], z[:, :, -1]
    y_sum, z_sum = (own[:, :, :count] + own[:, :, count:-1] for own in (y, z))
    s = z_sum - y_node[:, :, None] if sums.step else y_sum + y_node[:, :, None]
    whole = np.uint64(bits)
    parts = [
        ((y_left[0] << whole) - product_part(ring, rho, y_sum), bits, "e y"),
        ((z_left[0] << whole) - product_part(ring, rho, z_sum), bits + 1, "e z"),
        (product_part(ring, rho, y_sum - y_node[:, :, None]), bits, "more"),
        (product_part(ring, other, s), bits + 1, "s"),
        (z_node[0], 1, "z"),
        (product_part(ring, tau, y_node), bits, "y tau"),
    ]
    found = yield from together(
        *(truncate(server, ring, part, shift, address.named(name)) for part, shift, name in parts)
    )
    return BoundedTerms(*found)
