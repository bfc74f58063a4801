/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: series, see maths.h.
 */
#include "profiler/sample/maths.h"

/* e^-x = 2^-k e^-t, |t| <= ln 2 / 2, by Taylor's series. */
double maths_inverse_share_far(double x)
{
	int64_t k;
	double t, sum;

	if (x > 40)
		return 1.0;
	k = (int64_t)(x * (1 / MATHS_LN2) + 0.5);
	t = x - (double)k * MATHS_LN2;
	sum = 1.0 / 3628800; /* (-1)^k / k! */
	sum = sum * t - 1.0 / 362880;
	sum = sum * t + 1.0 / 40320;
	sum = sum * t - 1.0 / 5040;
	sum = sum * t + 1.0 / 720;
	sum = sum * t - 1.0 / 120;
	sum = sum * t + 1.0 / 24;
	sum = sum * t - 1.0 / 6;
	sum = sum * t + 1.0 / 2;
	sum = sum * t - 1;
	sum = sum * t + 1;
	return 1 /
	       (1 - sum * maths_from_bits((uint64_t)(MATHS_BIAS - k) << MATHS_MANTISSA));
}
