import math

import torch
from torch import nn

from mtlcli.regularizers.base import Forward
from mtlcli.templates.regularizers import Example
from mtlcli.testing import RUN, check_regularizer


def test_contract() -> None:
    check_regularizer(Example)
    check_regularizer(Example, weight=0.0)


def test_three_equally_likely_classes_have_the_entropy_log_3() -> None:
    def unused(*_: object) -> torch.Tensor:
        raise NotImplementedError

    forward = Forward(nn.Identity(), 0, None, torch.zeros(2, 3), unused, unused, unused, unused, lambda logits: logits)  # type: ignore[arg-type]
    assert math.isclose(Example(RUN, weight=2.0)(forward).item(), -2 * math.log(3), rel_tol=1e-6)
