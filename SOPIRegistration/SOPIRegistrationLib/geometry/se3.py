"""Rigid motions: exponential, logarithm, adjoint, geodesics of SO(3) and SE(3).

Every function takes numpy arrays or torch tensors (through the array API), batched over the leading
dimensions, and is differentiable in torch. Twists are ordered ``(w, v)``: rotation (rad) first, then
translation (mm). Source: Murray, Li, Sastry, *A Mathematical Introduction to Robotic Manipulation*,
ch. 2; Lynch and Park, *Modern Robotics*, ch. 3.
"""

from __future__ import annotations

from array_api_compat import array_namespace

# Below this squared angle the closed forms lose digits to cancellation; their Taylor series do not.
_SMALL_ANGLE_SQUARED = 1e-8


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


def _sinc_coefficients(xp, angle_squared):
    """sin(a)/a, (1 - cos a)/a^2 and (a - sin a)/a^3 as functions of a^2, smooth at zero."""
    small = angle_squared < _SMALL_ANGLE_SQUARED
    safe = xp.where(small, xp.ones_like(angle_squared), angle_squared)
    angle = xp.sqrt(safe)
    a = xp.where(small, 1 - angle_squared / 6, xp.sin(angle) / angle)
    b = xp.where(small, 0.5 - angle_squared / 24, (1 - xp.cos(angle)) / safe)
    c = xp.where(small, 1.0 / 6 - angle_squared / 120, (angle - xp.sin(angle)) / (safe * angle))
    return a, b, c


def _identity_like(xp, matrix):
    eye = xp.eye(3, dtype=matrix.dtype)
    if hasattr(matrix, "device") and not isinstance(matrix.device, str):
        eye = eye.to(matrix.device)
    return eye


def exp_so3(w):
    """Rotation matrices of rotation vectors (Rodrigues' formula).

    Args:
        w: (..., 3) rotation vectors, rad.

    Returns:
        (..., 3, 3) rotations.
    """
    xp = array_namespace(w)
    a, b, _ = _sinc_coefficients(xp, xp.sum(w * w, axis=-1))
    W = skew(w)
    return _identity_like(xp, W) + a[..., None, None] * W + b[..., None, None] * (W @ W)


def log_so3(R):
    """Rotation vectors of rotation matrices, angle in [0, pi].

    Accurate over the whole range: near pi the axis comes from the symmetric part (there its sign is
    free, and the antisymmetric part, where it has not vanished, chooses it).

    Args:
        R: (..., 3, 3) rotations.

    Returns:
        (..., 3) rotation vectors, rad.
    """
    xp = array_namespace(R)
    antisymmetric = 0.5 * xp.stack(
        [
            R[..., 2, 1] - R[..., 1, 2],
            R[..., 0, 2] - R[..., 2, 0],
            R[..., 1, 0] - R[..., 0, 1],
        ],
        axis=-1,
    )
    sine_squared = xp.sum(antisymmetric * antisymmetric, axis=-1)
    cosine = 0.5 * (R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2] - 1)

    small = (sine_squared < _SMALL_ANGLE_SQUARED) & (cosine > 0)
    safe_sine = xp.sqrt(xp.where(small, xp.ones_like(sine_squared), sine_squared + 1e-300))
    angle = xp.atan2(safe_sine, cosine) if hasattr(xp, "atan2") else xp.arctan2(safe_sine, cosine)
    scale = xp.where(small, 1 + sine_squared / 6, angle / safe_sine)
    generic = scale[..., None] * antisymmetric

    # Near pi: (R + R^T)/2 = cos a I + (1 - cos a) n n^T; the column of the largest diagonal gives n.
    symmetric = 0.5 * (R + xp.swapaxes(R, -1, -2) if hasattr(xp, "swapaxes") else R + R.mT)
    diagonal = xp.stack([R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]], axis=-1)
    largest = xp.argmax(diagonal, axis=-1)
    one_hot = largest[..., None] == _arange3(xp, largest)
    one_hot = xp.astype(one_hot, R.dtype) if hasattr(xp, "astype") else one_hot.to(R.dtype)
    column = xp.sum(symmetric * one_hot[..., None, :], axis=-1) - cosine[..., None] * one_hot
    norm = xp.sqrt(xp.sum(column * column, axis=-1) + 1e-300)
    axis = column / norm[..., None]
    facing = xp.sum(axis * antisymmetric, axis=-1)
    sign = xp.where(facing < 0, -xp.ones_like(facing), xp.ones_like(facing))
    near_pi = (cosine < -0.99)[..., None]
    return xp.where(near_pi, (angle * sign)[..., None] * axis, generic)


def _arange3(xp, like):
    indices = xp.arange(3)
    if hasattr(like, "device") and not isinstance(like.device, str):
        indices = indices.to(like.device)
    return indices


def rigid(R, t):
    """4x4 matrix of a rotation (..., 3, 3) and a translation (..., 3) in mm."""
    xp = array_namespace(R)
    top = xp.concat([R, t[..., None]], axis=-1)
    bottom = xp.zeros_like(top[..., :1, :])
    bottom = bottom + xp.concat(
        [xp.zeros_like(top[..., :1, :3]), xp.ones_like(top[..., :1, 3:])], axis=-1
    )
    return xp.concat([top, bottom], axis=-2)


def invert_rigid(T):
    """Inverse of rigid 4x4 matrices, exact in the rotation (its transpose)."""
    R_inverse = T[..., :3, :3].mT if hasattr(T, "mT") else T[..., :3, :3].swapaxes(-1, -2)
    return rigid(R_inverse, -(R_inverse @ T[..., :3, 3:])[..., 0])


def exp_se3(twist):
    """Rigid 4x4 matrices of twists.

    Args:
        twist: (..., 6), ``(w, v)``, rad and mm.

    Returns:
        (..., 4, 4): ``exp([[skew(w), v], [0, 0]])``.
    """
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
    small = angle_squared < _SMALL_ANGLE_SQUARED
    safe = xp.where(small, xp.ones_like(angle_squared), angle_squared)
    d = xp.where(small, 1.0 / 12 + angle_squared / 720, (1 - a / (2 * b)) / safe)
    W = skew(w)
    inverse_left_jacobian = _identity_like(xp, W) - 0.5 * W + d[..., None, None] * (W @ W)
    v = (inverse_left_jacobian @ T[..., :3, 3:])[..., 0]
    return xp.concat([w, v], axis=-1)


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
    R_a_inverse = R_a.mT if hasattr(R_a, "mT") else R_a.swapaxes(-1, -2)
    w = log_so3(R_a_inverse @ R_b)
    return xp.sqrt(xp.sum(w * w, axis=-1))


def geodesic_distance(T_a, T_b, mm_per_rad: float = 1.0):
    """Distance on SE(3) in the canonical left-invariant (product) metric.

    Args:
        T_a, T_b: (..., 4, 4) rigid matrices, mm.
        mm_per_rad: how many mm of translation weigh as much as one radian of rotation.

    Returns:
        (...,) ``sqrt((mm_per_rad * angle)^2 + |t_b - t_a|^2)``, mm.
    """
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

    Args:
        T_a, T_b: (..., 4, 4) rigid matrices, mm.

    Returns:
        (..., 6) ``(rotation, translation)``, rad and mm.
    """
    xp = array_namespace(T_a)
    R_a = T_a[..., :3, :3]
    R_a_inverse = R_a.mT if hasattr(R_a, "mT") else R_a.swapaxes(-1, -2)
    w = log_so3(R_a_inverse @ T_b[..., :3, :3])
    v = (R_a_inverse @ (T_b[..., :3, 3:] - T_a[..., :3, 3:]))[..., 0]
    return -xp.concat([w, v], axis=-1)
