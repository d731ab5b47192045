"""Every other term of a loss on the GPU beside float64 on the CPU: value and slopes."""

from __future__ import annotations

import pytest

from kdwatts.doctor.numbers.cases_of_terms import PRODUCT, SMALL, term_makers
from kdwatts.doctor.numbers.terms_in_float64 import PRECISIONS, compared
from tests.gpu.gpu import DEVICE, ON_GPU

pytestmark = [pytest.mark.gpu, ON_GPU]

SIZES = PRODUCT if DEVICE.type == "cuda" else SMALL


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", term_makers(SMALL))
def test_a_term_is_that_of_float64(name: str, precision: str):
    agreement = compared(term_makers(SIZES)[name](), PRECISIONS[precision], DEVICE)
    assert agreement.excess <= 1, agreement
