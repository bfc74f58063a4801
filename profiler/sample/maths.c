/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: series, see maths.h.
 */
#include "profiler/sample/maths.h"

/* e^-x = 2^-k e^-t, |t| <= ln 2 / 2, by Taylor's series. */
double maths_inverse_share_far(double x)
{
	int64_t k;
	double t, t2, t4, low, middle, high, sum;

	if (x > 40)
		return 1.0;
	k = (int64_t)(x * (1 / MATHS_LN2) + 0.5);
	t = x - (double)k * MATHS_LN2;
	/* (-t)^n / n!, in short chains that run side by side */
	t2 = t * t;
	t4 = t2 * t2;
	low = 1 - t + t2 * (1.0 / 2 - t * (1.0 / 6));
	middle = 1.0 / 24 - t * (1.0 / 120) + t2 * (1.0 / 720 - t * (1.0 / 5040));
	high = 1.0 / 40320 - t * (1.0 / 362880) + t2 * (1.0 / 3628800);
	sum = low + t4 * (middle + t4 * high);
	return 1 /
	       (1 - sum * maths_from_bits((uint64_t)(MATHS_BIAS - k) << MATHS_MANTISSA));
}
