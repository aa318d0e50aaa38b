"""Student's t distribution with whole degrees of freedom: probabilities, quantiles and the interval of a mean."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def t_probability(t: float, freedom: int) -> float:
    """Return P(T <= t) for `freedom` degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    # theta in Abramowitz and Stegun.
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, cosine) if freedom % 2 else (1.0, 1.0)
    # The series ends with cos(theta)^(freedom - 2) for odd and even degrees of freedom.
    for power in range(2 if freedom % 2 else 1, freedom - 1, 2):
        term *= power / (power + 1) * cosine**2
        total += term
    inside = 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0)) if freedom % 2 else sine * total
    return 0.5 * (1 + math.copysign(inside, t))


def t_quantile(probability: float, freedom: int) -> float:
    """Return the t with P(T <= t) = `probability`, by bisection."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    # No fixed upper end would do: for one degree of freedom, the quantile of 0.9995 is 637.
    while t_probability(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of the mean of normal values with n - 1 degrees of freedom; None for fewer than two values."""
    if len(values) < 2:
        return None
    reach = t_quantile((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def t_test(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean of 0; None for fewer than two values, 0 or 1 for values without spread."""
    if len(values) < 2:
        return None
    mean, deviation = fmean(values), stdev(values)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * (1 - t_probability(abs(mean) * math.sqrt(len(values)) / deviation, len(values) - 1))
