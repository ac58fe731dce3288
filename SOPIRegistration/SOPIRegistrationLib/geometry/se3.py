"""Rigid motions: exponential, logarithm, adjoint, geodesics of SO(3) and SE(3).

Every function takes numpy arrays or torch tensors (through the array API), batched over the leading
dimensions, and is differentiable in torch. Twists are ordered ``(w, v)``: rotation (rad) first, then
translation (mm). Source: Murray, Li, Sastry, *A Mathematical Introduction to Robotic Manipulation*,
ch. 2; Lynch and Park, *Modern Robotics*, ch. 3.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

# Below this squared angle (squared sine in the logarithm) the closed forms lose digits to cancellation,
# in float32 nearly all of them, or divide zero by zero in a derivative; the series, cut where float64
# no longer sees the rest, do not.
_SERIES_BELOW = 0.1
_SINE_SERIES_BELOW = 1e-4
# Above about 172 degrees the antisymmetric part of a rotation no longer carries its axis.
_NEAR_PI_COSINE = -0.99


def skew(w):
    """Cross-product matrix: ``skew(w) @ p == cross(w, p)``.

    Args:
        w: (..., 3) vectors.

    Returns:
        (..., 3, 3) antisymmetric matrices.
    """
    xp = array_namespace(w)
    x, y, z = w[..., 0], w[..., 1], w[..., 2]
    zero = xp.zeros_like(x)
    rows = [
        xp.stack([zero, -z, y], axis=-1),
        xp.stack([z, zero, -x], axis=-1),
        xp.stack([-y, x, zero], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def _polynomial(x, coefficients):
    """c0 + c1 x + c2 x^2 ... by Horner's rule."""
    value = coefficients[-1] + 0 * x
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _sinc_coefficients(xp, angle_squared):
    """sin(a)/a, (1 - cos a)/a^2 and (a - sin a)/a^3 as functions of a^2, smooth at zero."""
    x = angle_squared
    small = x < _SERIES_BELOW
    safe = xp.where(small, xp.ones_like(x), x)
    angle = xp.sqrt(safe)
    half_sinc = xp.sin(angle / 2) / (angle / 2)
    closed = xp.sin(angle) / angle, half_sinc**2 / 2, (angle - xp.sin(angle)) / (safe * angle)
    series = (
        (1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800),
        (1 / 2, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800, -1 / 479001600),
        (1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800),
    )
    return tuple(
        xp.where(small, _polynomial(x, terms), value) for terms, value in zip(series, closed, strict=True)
    )


def _identity_like(xp, matrix):
    return xp.eye(3, dtype=matrix.dtype, device=device(matrix))


def exp_so3(w):
    """(..., 3, 3) rotations of rotation vectors (..., 3), rad (Rodrigues' formula)."""
    xp = array_namespace(w)
    a, b, _ = _sinc_coefficients(xp, xp.sum(w * w, axis=-1))
    W = skew(w)
    return _identity_like(xp, W) + a[..., None, None] * W + b[..., None, None] * (W @ W)


def log_so3(R):
    """(..., 3) rotation vectors, rad, of rotations (..., 3, 3), angle in [0, pi].

    Accurate over the whole range: near pi the axis comes from the symmetric part, its sign (free at
    pi itself) from what is left of the antisymmetric one.
    """
    xp = array_namespace(R)
    antisymmetric = 0.5 * xp.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1
    )
    sine_squared = xp.sum(antisymmetric * antisymmetric, axis=-1)
    diagonal = xp.stack([R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]], axis=-1)
    cosine = 0.5 * (xp.sum(diagonal, axis=-1) - 1)
    near_pi = cosine < _NEAR_PI_COSINE
    small = (sine_squared < _SINE_SERIES_BELOW) & ~near_pi

    # Each branch is fed harmless values where another one applies, so that no gradient meets 0/0.
    sine = xp.sqrt(xp.where(small | near_pi, xp.ones_like(sine_squared), sine_squared))
    angle_over_sine = xp.where(
        small, _polynomial(sine_squared, (1, 1 / 6, 3 / 40, 5 / 112)), xp.atan2(sine, cosine) / sine
    )
    generic = angle_over_sine[..., None] * antisymmetric

    # Near pi: (R + R^T)/2 = cos a I + (1 - cos a) n n^T; the column of the largest diagonal gives n.
    symmetric = 0.5 * (R + xp.matrix_transpose(R))
    largest = xp.argmax(diagonal, axis=-1)
    one_hot = xp.astype(xp.arange(3, device=device(R)) == largest[..., None], R.dtype)
    column = xp.sum(symmetric * one_hot[..., None, :], axis=-1) - cosine[..., None] * one_hot
    column = xp.where(near_pi[..., None], column, one_hot)
    axis = column / xp.sqrt(xp.sum(column * column, axis=-1))[..., None]
    signed_angle = xp.atan2(xp.sum(axis * antisymmetric, axis=-1), cosine)
    return xp.where(near_pi[..., None], signed_angle[..., None] * axis, generic)


def rigid(R, t):
    """4x4 matrix of a rotation (..., 3, 3) and a translation (..., 3) in mm."""
    xp = array_namespace(R)
    top = xp.concat([R, t[..., None]], axis=-1)
    bottom = xp.zeros_like(top[..., :1, :])
    bottom = bottom + xp.concat([xp.zeros_like(top[..., :1, :3]), xp.ones_like(top[..., :1, 3:])], axis=-1)
    return xp.concat([top, bottom], axis=-2)


def invert_rigid(T):
    """Inverse of rigid 4x4 matrices, exact in the rotation (its transpose)."""
    R_inverse = array_namespace(T).matrix_transpose(T[..., :3, :3])
    return rigid(R_inverse, -(R_inverse @ T[..., :3, 3:])[..., 0])


def transform_points(T, points):
    """Points (..., 3) moved by (..., 4, 4); broadcast: (P, 1, 4, 4) and (N, 3) give (P, N, 3)."""
    return (T[..., :3, :3] @ points[..., None])[..., 0] + T[..., :3, 3]


def exp_se3(twist):
    """(..., 4, 4) ``exp([[skew(w), v], [0, 0]])`` of twists (..., 6) ``(w, v)``, rad and mm."""
    xp = array_namespace(twist)
    w, v = twist[..., :3], twist[..., 3:]
    a, b, c = _sinc_coefficients(xp, xp.sum(w * w, axis=-1))
    W = skew(w)
    W2 = W @ W
    eye = _identity_like(xp, W)
    R = eye + a[..., None, None] * W + b[..., None, None] * W2
    left_jacobian = eye + b[..., None, None] * W + c[..., None, None] * W2
    return rigid(R, (left_jacobian @ v[..., None])[..., 0])


def log_se3(T):
    """Twists of rigid 4x4 matrices, the inverse of :func:`exp_se3` for angles below pi."""
    xp = array_namespace(T)
    w = log_so3(T[..., :3, :3])
    angle_squared = xp.sum(w * w, axis=-1)
    a, b, _ = _sinc_coefficients(xp, angle_squared)
    small = angle_squared < _SERIES_BELOW
    safe = xp.where(small, xp.ones_like(angle_squared), angle_squared)
    series = (1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160)
    d = xp.where(small, _polynomial(angle_squared, series), (1 - a / (2 * b)) / safe)
    W = skew(w)
    inverse_left_jacobian = _identity_like(xp, W) - 0.5 * W + d[..., None, None] * (W @ W)
    v = (inverse_left_jacobian @ T[..., :3, 3:])[..., 0]
    return xp.concat([w, v], axis=-1)


def move_about(T, twist, centre):
    """(..., 4, 4) poses after twists that act about a point of the object.

    Args:
        T: (..., 4, 4) poses, object frame to target frame, mm.
        twist: (..., 6) in the target frame's axes, rad and mm.
        centre: (3,) or (..., 3) the point, object frame, mm.
    """
    motion = exp_se3(twist)
    R = motion[..., :3, :3] @ T[..., :3, :3]
    place = transform_points(T, centre) + motion[..., :3, 3]
    return rigid(R, place - (R @ centre[..., None])[..., 0])


def twist_about(T_from, T_to, centre):
    """(..., 6) twists that lead from poses ``T_from`` to ``T_to``: the inverse of :func:`move_about`."""
    R_from_inverse = array_namespace(T_from).matrix_transpose(T_from[..., :3, :3])
    shift = transform_points(T_to, centre) - transform_points(T_from, centre)
    return log_se3(rigid(T_to[..., :3, :3] @ R_from_inverse, shift))


def adjoint(T):
    """(..., 6, 6) adjoint: ``T exp(x) T^-1 == exp(adjoint(T) x)`` for twists ``(w, v)``."""
    xp = array_namespace(T)
    R = T[..., :3, :3]
    top = xp.concat([R, xp.zeros_like(R)], axis=-1)
    bottom = xp.concat([skew(T[..., :3, 3]) @ R, R], axis=-1)
    return xp.concat([top, bottom], axis=-2)


def rotation_distance(R_a, R_b):
    """Geodesic distance on SO(3): the angle (rad) of ``R_a^T R_b``, in [0, pi]."""
    xp = array_namespace(R_a)
    R_a_inverse = xp.matrix_transpose(R_a)
    w = log_so3(R_a_inverse @ R_b)
    return xp.sqrt(xp.sum(w * w, axis=-1))


def geodesic_distance(T_a, T_b, mm_per_rad: float = 1.0):
    """(...,) ``sqrt((mm_per_rad * angle)^2 + |t_b - t_a|^2)``, mm: distance in SE(3)'s canonical metric."""
    xp = array_namespace(T_a)
    gradient = geodesic_gradient(T_a, T_b)
    scale = xp.concat(
        [mm_per_rad * xp.ones_like(gradient[..., :3]), xp.ones_like(gradient[..., 3:])], axis=-1
    )
    scaled = gradient * scale
    return xp.sqrt(xp.sum(scaled * scaled, axis=-1))


def geodesic_gradient(T_a, T_b):
    """Gradient of half the squared geodesic distance at ``T_a``, in its body frame.

    The canonical left-invariant metric of SE(3) is a product metric (Zefran, Kumar, Croke 1998), so
    the gradient is minus the logarithm of each factor: ``(-log(R_a^T R_b), -R_a^T (t_b - t_a))``.
    Following its negative with ``T_a exp(.)`` leads to ``T_b``. Eq. 7 of the SOPI paper uses it as
    the direction that a learned similarity should reproduce.

    Returns:
        (..., 6) ``(rotation, translation)``, rad and mm.
    """
    xp = array_namespace(T_a)
    R_a = T_a[..., :3, :3]
    R_a_inverse = xp.matrix_transpose(R_a)
    w = log_so3(R_a_inverse @ T_b[..., :3, :3])
    v = (R_a_inverse @ (T_b[..., :3, 3:] - T_a[..., :3, 3:]))[..., 0]
    return -xp.concat([w, v], axis=-1)
