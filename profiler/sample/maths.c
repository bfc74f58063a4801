/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: series, see maths.h.
 */
#include "profiler/sample/maths.h"

/* 2^(-j/16) */
static const double roots[16] = {
	1.0,
	0.9576032806985737,
	0.9170040432046712,
	0.8781260801866497,
	0.8408964152537145,
	0.8052451659746271,
	0.7711054127039704,
	0.7384130729697497,
	0.7071067811865476,
	0.6771277734684463,
	0.6484197773255048,
	0.620928906036742,
	0.5946035575013605,
	0.5693943173783458,
	0.5452538663326288,
	0.5221368912137069,
};

/* e^-x = 2^(-k/16) e^-t, |t| <= ln 2 / 32, by Taylor's series. */
double maths_inverse_share_far(double x)
{
	int64_t k;
	double t, t2, low, high, power;

	if (x > 40)
		return 1.0;
	k = (int64_t)(x * (16 / MATHS_LN2) + 0.5);
	t = x - (double)k * (MATHS_LN2 / 16);
	/* (-t)^n / n!, in short chains that run side by side */
	t2 = t * t;
	low = 1 - t;
	high = 1.0 / 2 - t * (1.0 / 6) + t2 * (1.0 / 24 - t * (1.0 / 120));
	power = maths_from_bits((uint64_t)(MATHS_BIAS - (k >> 4)) << MATHS_MANTISSA);
	return 1 / (1 - (low + t2 * high) * (roots[k & 15] * power));
}
